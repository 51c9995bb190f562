"""From files to feeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime.arrays import save_arrays
from edgeferry_runtime.errors import DataError, EdgeferryError, MissingFileError, UsageError
from edgeferry_runtime.input_files import read_feeds, stored
from edgeferry_runtime.preprocess import Preprocess
from edgeferry_runtime.tensors import Quantization, TensorSpec

ONE = (TensorSpec("x", (1, 2, 2, 3), "float32"),)
TWO = (TensorSpec("a", (1, 2), "float32"), TensorSpec("b=c", (1, 2), "float32"))
PIXELS = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", PIXELS)
    np.save("sample.npy", PIXELS[0])
    np.save("pair.npy", np.float32([[1, 2]]))
    np.savez("x.npz", x=PIXELS)
    np.savez("other.npz", y=PIXELS)
    save_arrays(Path("both.npz"), {"a": np.float32([[1, 2]]), "b=c": np.float32([[3, 4]])})
    return tmp_path


@pytest.mark.parametrize("text", ["x.npy", "x=x.npy", "sample.npy", "x.npz", "x=x.npz", "other.npz", "x=other.npz"])
def test_one_input(folder: Path, text: str) -> None:
    feeds = read_feeds([text], ONE, None)
    assert list(feeds) == ["x"]
    assert np.array_equal(feeds["x"], PIXELS)


@pytest.mark.parametrize("texts", [["both.npz"], ["a=pair.npy", "b=c=pair.npy"]])
def test_several_inputs(folder: Path, texts: list[str]) -> None:
    assert set(read_feeds(texts, TWO, None)) == {"a", "b=c"}


def test_a_picture_is_preprocessed(folder: Path) -> None:
    pytest.importorskip("PIL.Image").fromarray(np.full((4, 4, 3), 255, np.uint8)).save("white.png")
    feeds = read_feeds(["white.png"], ONE, Preprocess(resize=(2, 2), scale=1 / 255))
    assert feeds["x"].shape == (1, 2, 2, 3)
    assert np.allclose(feeds["x"], 1)
    quantized = (TensorSpec("x", (1, 2, 2, 3), "int8", Quantization((1 / 255,), (-128,))),)
    raw = read_feeds(["white.png"], quantized, Preprocess(resize=(2, 2), scale=1 / 255), raw=True)
    assert raw["x"].dtype == np.int8
    assert np.all(raw["x"] == 127)


@pytest.mark.parametrize(
    ("texts", "specs", "error", "said"),
    [
        (["none.npy"], ONE, MissingFileError, "no such input file"),
        (["y=x.npy"], ONE, DataError, "'y' is none of the inputs; valid are x"),
        (["pair.npy"], TWO, UsageError, "say which: a=pair.npy"),
        (["a=pair.npy"], TWO, DataError, "lacks b=c"),
        (["a=pair.npy", "both.npz"], TWO, DataError, "second time"),
        (["x.npz"], TWO, DataError, "'x' is none of the inputs"),
        (["a=both.npz"], TWO, DataError, "2 arrays for the one input"),
        (["white.png"], ONE, DataError, "nothing says how pictures"),
        (["notes.txt"], ONE, DataError, "'.txt'"),
        (["broken.npy"], ONE, DataError, "cannot be read as an array"),
        (["broken.npz"], ONE, DataError, "cannot be read as arrays"),
        (["pickle.npy"], ONE, DataError, "cannot be read as an array"),
    ],
)
def test_what_cannot_be_read(folder: Path, texts, specs, error: type[EdgeferryError], said: str) -> None:
    for name in ("white.png", "notes.txt", "broken.npy", "broken.npz"):
        Path(name).write_bytes(b"PK\x03\x04 something")
    np.save("pickle.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(error) as raised:
        read_feeds(texts, specs, None)
    assert said in str(raised.value)


def test_stored_quantizes_what_is_quantized() -> None:
    specs = (TensorSpec("q", (2,), "int8", Quantization((0.5,), (1,))), TensorSpec("f", (2,), "float32"))
    found = stored({"q": np.float32([1, 2]), "f": np.float32([1, 2])}, specs)
    assert found["q"].tolist() == [3, 5]
    assert found["f"].tolist() == [1, 2]


def test_arrays_of_any_name_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    save_arrays(path, {"file": np.ones(2), "a/b:0": np.zeros((0, 3), np.int8)})
    with np.load(path) as found:
        assert found["file"].tolist() == [1, 1]
        assert found["a/b:0"].shape == (0, 3)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="allow_pickle"):
        save_arrays(path, {"x": np.array([{}], object)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out.npz"]
