"""Probe and calibration data: every form, the rule of samples, and every way to be wrong."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_converter.data import Samples, check_calibration, fit, open_data, random_samples
from edgeferry_runtime.errors import DataError, MissingFileError
from edgeferry_runtime.preprocess import Preprocess
from edgeferry_runtime.tensors import Quantization, TensorSpec

IMAGE = TensorSpec("image", (1, 4, 4, 3), "float32")
DYNAMIC = TensorSpec("image", (-1, 4, 4, 3), "float32")
TOKENS = TensorSpec("tokens", (1, 5), "int32")
STORED = TensorSpec("image", (1, 4), "int8", Quantization((0.5,), (-128,)))


def pictures(count: int = 6, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).random((count, 4, 4, 3)).astype(dtype)


def bound(path: Path, *inputs: TensorSpec) -> Samples:
    return open_data(path).bind(inputs)


def test_an_npy_file_feeds_the_only_input_sample_by_sample(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", pictures())
    samples = list(bound(tmp_path / "x.npy", IMAGE))
    assert len(samples) == 6
    np.testing.assert_array_equal(samples[2]["image"], pictures()[2:3])
    assert samples[2]["image"].flags["C_CONTIGUOUS"]


def test_an_npz_file_feeds_inputs_by_name(tmp_path: Path) -> None:
    tokens = np.arange(30).reshape(6, 5)
    np.savez(tmp_path / "x.npz", image=pictures(), tokens=tokens)
    samples = list(bound(tmp_path / "x.npz", IMAGE, TOKENS))
    assert samples[3]["tokens"].dtype == np.int32
    np.testing.assert_array_equal(samples[3]["tokens"], tokens[3:4])


def test_a_sample_that_fits_as_a_whole_is_fed_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 7, 4, 4, 3), np.float32))
    assert [s["image"].shape for s in bound(tmp_path / "x.npy", DYNAMIC)] == [(7, 4, 4, 3)] * 3


@given(st.integers(1, 40), st.integers(1, 50))
def test_samples_are_taken_evenly_and_never_twice(total: int, limit: int) -> None:
    spec = TensorSpec("x", (1, 1), "float32")
    samples = Samples(Path("x"), (spec,), {"x": np.arange(total, dtype=np.float32)[:, None]}).take(limit)
    taken = [float(s["x"]) if s["x"].ndim == 0 else s["x"].item() for s in samples]
    assert len(taken) == len(samples) == min(total, limit)
    assert taken[0] == 0
    assert len(set(taken)) == len(taken)
    assert taken == sorted(taken)


def test_a_folder_of_npy_is_read_one_file_at_a_time(tmp_path: Path) -> None:
    for i, picture in enumerate(pictures(3)):
        np.save(tmp_path / f"{i}.npy", picture)
    (tmp_path / "README.txt").write_text("not a sample")
    samples = iter(bound(tmp_path, IMAGE))
    np.testing.assert_array_equal(next(samples)["image"], pictures(3)[:1])
    (tmp_path / "1.npy").write_bytes(b"\x93NUMPY broken")
    with pytest.raises(DataError, match=r"1\.npy"):
        next(samples)


def test_a_folder_for_each_input_feeds_several(tmp_path: Path) -> None:
    for name, value in (("image", pictures(1)[0]), ("tokens", np.zeros(5, np.int32))):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "0.npy", value)
    (sample,) = bound(tmp_path, IMAGE, TOKENS)
    assert {k: v.shape for k, v in sample.items()} == {"image": (1, 4, 4, 3), "tokens": (1, 5)}


def test_images_become_inputs_as_the_recipe_says(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (9, 7), (255, 0, 51)).save(tmp_path / "red.png")
    data = open_data(tmp_path, Preprocess(resize=(4, 4), scale=1 / 255))
    assert data.shapes() == {"": (1, 4, 4, 3)}
    (sample,) = data.bind([IMAGE])
    np.testing.assert_allclose(sample["image"][0, 0, 0], [1, 0, 0.2], atol=1e-6)
    with pytest.raises(DataError, match=r"add a \[preprocess\] table"):
        open_data(tmp_path)


def test_shapes_of_arrays_get_the_batch_of_one(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((200, 1, 8, 8), np.float32))
    assert open_data(tmp_path / "x.npy").shapes() == {"": (1, 1, 8, 8)}


def test_wrong_names_are_said_with_the_nearest(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", imgae=pictures())
    with pytest.raises(DataError, match="'imgae', which is no input; did you mean 'image'"):
        bound(tmp_path / "x.npz", IMAGE)
    np.savez(tmp_path / "y.npz", image=pictures())
    with pytest.raises(DataError, match="no data for the input 'tokens'"):
        bound(tmp_path / "y.npz", IMAGE, TOKENS)
    np.save(tmp_path / "x.npy", pictures())
    with pytest.raises(DataError, match="names no input, and the model has 2"):
        bound(tmp_path / "x.npy", IMAGE, TOKENS)


@pytest.mark.parametrize(
    ("value", "spec", "said"),
    [
        (np.zeros((3, 4, 4), "f4"), IMAGE, r"has shape \[3, 4, 4\], and the input is image float32\[1x4x4x3\]"),
        (np.zeros((4, 4, 3), "i8"), IMAGE, "is int64, and the input is float32; save the data as float32"),
        (np.zeros((4, 4, 3), "c8"), IMAGE, "is complex64"),
        (np.full((4, 4, 3), "a"), IMAGE, "is <U1"),
        (np.full((4, 4, 3), np.nan), IMAGE, "holds NaN"),
        (np.full((4, 4, 3), 1e300), IMAGE, "holds infinite values"),
        (np.zeros(5, "f4"), TOKENS, "is float32, and the input is int32"),
        (np.full(5, 2**40), TOKENS, "values that int32 cannot hold"),
        (np.full(4, 4000, "f4"), STORED, r"lies in 4000 to 4000, and the input takes 0 to 127\.5"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused(value: np.ndarray, spec: TensorSpec, said: str) -> None:
    with pytest.raises(DataError, match=said):
        fit("data", value, spec)


@pytest.mark.parametrize("dtype", ["u1", "i2", "f2", "f8"])
def test_lossless_dtypes_are_taken(dtype: str) -> None:
    assert fit("data", np.ones((4, 4, 3), dtype), IMAGE).dtype == np.float32


def test_a_number_stays_a_number() -> None:
    rate = TensorSpec("rate", (), "int64")
    assert fit("data", np.array([16000, 8000])[0], rate).shape == ()
    assert next(iter(random_samples([rate], 2, 0, {})))["rate"].shape == ()


def test_a_quantized_input_takes_real_values() -> None:
    assert fit("data", np.full(4, 100.0), STORED).dtype == np.float32


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.npy", b"", "neither .npy nor .npz"),
        ("text.npy", b"1,2,3", "neither .npy nor .npz"),
        ("cut.npy", b"\x93NUMPY\x01\x00", "cannot be read"),
        ("cut.npz", b"PK\x03\x04 and then nothing", "cannot be read"),
        ("p.npy", pickle.dumps([1]), "neither .npy nor .npz"),
    ],
)
def test_a_file_that_is_no_data_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        open_data(tmp_path / name)


def test_object_arrays_are_never_unpickled(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}], dtype=object)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "o.npz", x=objects)
    for name in ("o.npy", "o.npz"):
        with pytest.raises(DataError, match="Python objects"):
            open_data(tmp_path / name)


def test_no_samples_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros((0, 4)))
    np.savez(tmp_path / "nothing.npz")
    (tmp_path / "folder").mkdir()
    for name in ("none.npy", "folder"):
        with pytest.raises(DataError, match="holds no samples"):
            open_data(tmp_path / name)
    np.save(tmp_path / "one.npy", np.float32(3))
    with pytest.raises(DataError, match="single number"):
        open_data(tmp_path / "one.npy")
    np.savez(tmp_path / "uneven.npz", a=np.zeros((3, 1)), b=np.zeros((4, 1)))
    with pytest.raises(DataError, match="a: 3, b: 4"):
        open_data(tmp_path / "uneven.npz")
    with pytest.raises(MissingFileError):
        open_data(tmp_path / "nowhere")


def test_calibration_needs_a_range(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.zeros((3, 4, 4, 3), np.float32))
    with pytest.raises(DataError, match="is 0 in every sample"):
        check_calibration(bound(tmp_path / "flat.npy", IMAGE))
    np.save(tmp_path / "far.npy", pictures() * 1e12)
    with pytest.raises(DataError, match="nothing of 256 steps"):
        check_calibration(bound(tmp_path / "far.npy", IMAGE))
    np.save(tmp_path / "good.npy", pictures())
    check_calibration(bound(tmp_path / "good.npy", IMAGE))
    np.save(tmp_path / "rate.npy", np.full(3, 16000))
    check_calibration(bound(tmp_path / "rate.npy", TensorSpec("rate", (), "int64")))


def test_random_samples_are_seeded_and_in_the_declared_range() -> None:
    inputs = (
        DYNAMIC,
        TensorSpec("q", (1, 4), "int8", Quantization((0.5,), (-128,))),
        TOKENS,
        TensorSpec("b", (2,), "bool"),
    )
    first, again, other = (list(random_samples(inputs, 3, seed, {})) for seed in (1, 1, 2))
    assert all(np.array_equal(a[k], b[k]) for a, b in zip(first, again, strict=True) for k in a)
    assert not np.array_equal(first[0]["image"], other[0]["image"])
    assert first[0]["image"].shape == (1, 4, 4, 3)
    assert 1 < first[0]["q"].max() <= 127.5
    assert first[0]["tokens"].dtype == np.int32
    assert first[0]["b"].dtype == bool


def test_random_samples_need_known_dimensions() -> None:
    spec = TensorSpec("sound", (1, -1), "float32")
    with pytest.raises(DataError, match=r"--shape sound="):
        random_samples([spec], 1, 0, {})
    assert next(iter(random_samples([spec], 1, 0, {"sound": (1, 9)})))["sound"].shape == (1, 9)
    with pytest.raises(DataError, match="cannot be made"):
        random_samples([TensorSpec("text", (1,), "str")], 1, 0, {})


@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_sample_is_read_from_a_file_in_any_order(save: Any, order: str, tmp_path: Path) -> None:
    whole = np.asarray(np.random.default_rng(0).random((50, 4, 4, 3)), "f4", order=order)
    path = tmp_path / ("x.npy" if save is np.save else "x.npz")
    save(path, whole) if save is np.save else save(path, image=whole)
    (column,) = open_data(path).columns.values()
    assert len(column) == 50
    for index in (3, 49, 0, 0, 17):
        np.testing.assert_array_equal(column[index], whole[index])


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_a_file_that_is_cut_off_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    np.save(path, pictures()) if name == "x.npy" else np.savez(path, image=pictures())
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match="cannot be read"):
        open_data(path)


def test_a_compressed_member_that_is_damaged_is_refused_with_its_sample(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", image=np.random.default_rng(0).random((200, 4, 4, 3)).astype("f4"))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[20000:20040] = b"\xff" * 40
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"sample \d+ of 'image'"):
        list(bound(tmp_path / "x.npz", IMAGE))
