"""Samples of several signatures: which array is for which input."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edgeferry_converter.data import open_data
from edgeferry_converter.signature_data import by_signature
from edgeferry_runtime.errors import DataError
from edgeferry_runtime.tensors import Array, TensorSpec


class Way:
    """A signature that is never run."""

    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, *names: str) -> None:
        self.inputs = tuple(TensorSpec(name, (1, 2), "float32") for name in names)

    def run(self, feeds: Mapping[str, Array], /) -> dict[str, Array]:
        """Answer nothing."""
        raise NotImplementedError


BOTH = {"encode": Way("x"), "decode": Way("x", "gain")}


def rows(count: int, value: float = 0) -> Array:
    return np.full((count, 2), value, np.float32)


def save(path: Path, **arrays: Array) -> Path:
    np.savez(path / "d.npz", **{name.replace("__", "/"): array for name, array in arrays.items()})  # type: ignore[arg-type]
    return path / "d.npz"


def test_the_closest_name_holds(tmp_path: Path) -> None:
    path = save(tmp_path, encode=rows(4, 1), x=rows(4, 2), decode__gain=rows(4, 3), decode__x=rows(4, 5))
    found = by_signature(open_data(path), BOTH)
    assert {key: [float(v[0, 0]) for v in next(iter(one)).values()] for key, one in found.items()} == {
        "encode": [1],
        "decode": [5, 3],
    }


def test_each_has_as_many_as_it_likes(tmp_path: Path) -> None:
    found = by_signature(open_data(save(tmp_path, encode__x=rows(3), decode__x=rows(5), decode__gain=rows(5))), BOTH)
    assert {key: len(one) for key, one in found.items()} == {"encode": 3, "decode": 5}
    with pytest.raises(DataError, match="unequal numbers of samples"):
        open_data(save(tmp_path, decode__x=rows(5), decode__gain=rows(4)))
    with pytest.raises(DataError, match="unequal numbers of samples"):
        by_signature(open_data(save(tmp_path, x=rows(3), decode__gain=rows(4))), BOTH)


def test_one_without_data_is_absent(tmp_path: Path) -> None:
    assert list(by_signature(open_data(save(tmp_path, encode=rows(3))), BOTH)) == ["encode"]


def test_a_folder_has_the_same_names(tmp_path: Path) -> None:
    for name in ("encode", "decode/x", "decode/gain"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(2):
            np.save(tmp_path / name / f"{i}.npy", rows(1))
    found = by_signature(open_data(tmp_path), BOTH)
    assert {key: len(one) for key, one in found.items()} == {"encode": 2, "decode": 2}


def test_an_array_without_a_name(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", rows(3))
    found = by_signature(open_data(tmp_path / "d.npy"), {"a": Way("x"), "b": Way("x")})
    assert {key: len(one) for key, one in found.items()} == {"a": 3, "b": 3}
    with pytest.raises(DataError, match=r"names no input, .* such as encode/x"):
        by_signature(open_data(tmp_path / "d.npy"), BOTH)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("decod__gain", "did you mean 'decode/gain'"),
        ("decode", "'decode', which is no input"),
        ("decode__gain", "has no data for the input 'x' of the signature 'decode'.*add an array named decode/x"),
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        by_signature(open_data(save(tmp_path, **{name: rows(2)})), BOTH)
