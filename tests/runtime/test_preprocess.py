"""Pictures to inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime.errors import DataError, MissingFileError, UnknownNameError, UsageError
from edgeferry_runtime.preprocess import Preprocess, read_image

PIL = pytest.importorskip("PIL.Image")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[..., 0] = 255
    path = tmp_path / "red.png"
    PIL.fromarray(pixels).save(path)
    return path


def test_formula_is_scale_then_mean_then_std() -> None:
    preprocess = Preprocess(scale=1 / 255, mean=(0.5,), std=(0.25,))
    assert preprocess.apply(np.full((1, 1, 3), 255, np.uint8)).ravel().tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("preprocess", "shape", "first"),
    [
        (Preprocess(), (1, 4, 6, 3), [255, 0, 0]),
        (Preprocess(color="bgr"), (1, 4, 6, 3), [0, 0, 255]),
        (Preprocess(color="gray"), (1, 4, 6, 1), [76]),
        (Preprocess(resize=(2, 3)), (1, 2, 3, 3), [255, 0, 0]),
    ],
)
def test_picture_becomes_the_input(picture: Path, preprocess: Preprocess, shape: tuple, first: list) -> None:
    values = read_image(picture, preprocess)
    assert values.shape == shape
    assert values.dtype == np.float32
    assert values[0, 0, 0].tolist() == first


def test_nchw_puts_channels_first(picture: Path) -> None:
    values = read_image(picture, Preprocess(layout="NCHW"))
    assert values.shape == (1, 3, 4, 6)
    assert values[0, :, 0, 0].tolist() == [255, 0, 0]
    assert values.flags.c_contiguous


def test_missing_and_damaged_pictures(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_image(tmp_path / "none.png", Preprocess())
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nxxxx")
    with pytest.raises(DataError, match=r"bad\.png"):
        read_image(tmp_path / "bad.png", Preprocess())


def test_json_round_trip_and_unknown_keys() -> None:
    preprocess = Preprocess(resize=(2, 3), mean=(1, 2, 3), std=(1, 1, 2), layout="NCHW")
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess
    assert Preprocess.from_dict({"mean": 0.5}).mean == (0.5,)
    with pytest.raises(UnknownNameError, match="did you mean 'resize'"):
        Preprocess.from_dict({"resise": [1, 2]})


@pytest.mark.parametrize(
    "wrong",
    [{"layout": "HWC"}, {"color": "cmyk"}, {"mean": (1, 2)}, {"std": (0,)}, {"resize": (0, 3)}, {"resize": (3,)}],
)
def test_wrong_values_are_usage_errors(wrong: dict) -> None:
    with pytest.raises(UsageError):
        Preprocess(**wrong)
