"""Pictures to inputs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime.errors import DataError, MissingExtraError, MissingFileError, UnknownNameError, UsageError
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


def test_a_picture_comes_as_a_file_as_its_bytes_or_as_pixels(picture: Path) -> None:
    pixels = np.asarray(PIL.open(picture))
    for preprocess in (Preprocess(), Preprocess(resize=(3, 3), color="gray"), Preprocess(color="bgr", layout="NCHW")):
        wanted = read_image(picture, preprocess)
        assert np.array_equal(read_image(picture.read_bytes(), preprocess), wanted)
        assert np.array_equal(read_image(pixels, preprocess), wanted)
    gray = np.full((2, 2), 7, np.uint8)
    for same in (gray, gray[..., np.newaxis]):
        assert read_image(same, Preprocess(color="gray")).ravel().tolist() == [7, 7, 7, 7]


def test_pixels_that_fit_need_no_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    pixels = np.zeros((2, 3, 3), np.uint8)
    assert read_image(pixels, Preprocess(resize=(2, 3))).shape == (1, 2, 3, 3)
    with pytest.raises(MissingExtraError, match=r"the picture: needs Pillow.*edgeferry\[images\]"):
        read_image(pixels, Preprocess(resize=(4, 4)))


@pytest.mark.parametrize("shape", [(2,), (2, 2, 2), (0, 2, 3), (1, 2, 2, 3)])
def test_what_holds_no_pixels(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"uint8\["):
        read_image(np.zeros(shape, np.uint8), Preprocess())
    with pytest.raises(DataError, match=r"float32\[2x2x3\]"):
        read_image(np.zeros((2, 2, 3), np.float32), Preprocess())
    with pytest.raises(DataError, match="the picture: cannot be read"):
        read_image(b"no picture", Preprocess())
