"""What is a file? Its content decides; what cannot be used is one clear error."""

from __future__ import annotations

import contextlib
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_converter.sources import MODULES, SourceSpec, detect, open_source
from edgeferry_runtime.errors import (
    ArtifactError,
    CorruptFileError,
    MissingFileError,
    UnknownFormatError,
    UnsafeFileError,
    UsageError,
)

from_text = SourceSpec.parse


@pytest.mark.parametrize(
    ("text", "path", "factory"),
    [
        ("a/net.py:make", "a/net.py", "make"),
        ("net.keras", "net.keras", None),
        ("C:/models/net.py:make", "C:/models/net.py", "make"),
        ("odd:name.h5", "odd:name.h5", None),
    ],
)
def test_parse(text: str, path: str, factory: str | None) -> None:
    spec = from_text(text)
    assert (spec.path, spec.factory) == (Path(path), factory)
    assert str(spec) == text


def test_python_needs_a_factory() -> None:
    with pytest.raises(UsageError, match=r"write net\.py:FACTORY"):
        from_text("net.py")


def test_weights_need_a_factory() -> None:
    with pytest.raises(UsageError, match="--weights"):
        from_text("net.keras", Path("w.pt"))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"none\.keras: no such file"):
        open_source(SourceSpec(tmp_path / "none.keras"))


def test_folder_without_saved_model(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormatError, match=r"folder without saved_model\.pb"):
        open_source(SourceSpec(tmp_path))


@pytest.mark.parametrize("content", [b"", b"hello, world\n" * 50, b"\x89PNG\r\n\x1a\n" + bytes(200), bytes(64)])
@pytest.mark.parametrize("suffix", [".keras", ".onnx", ".tflite", ".pt2", ".h5"])
def test_none_of_the_formats(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.") as caught:
        detect(SourceSpec(path))
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=300))
def test_random_bytes_never_surprise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.bin"
    path.write_bytes(content)
    with contextlib.suppress(ArtifactError):
        assert detect(SourceSpec(path)) in MODULES


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_is_refused_unopened(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(pickle.dumps({"weight": np.ones(3)}, protocol))
    with pytest.raises(UnsafeFileError, match=r"is a pickle.*--weights"):
        open_source(SourceSpec(path))


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"{}")
    return path


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (("readme.txt",), UnknownFormatError, "zip archive of another kind"),
        (("m/data.pkl", "m/version"), UnsafeFileError, "PyTorch pickle"),
    ],
)
def test_other_zip_archives(tmp_path: Path, names: tuple[str, ...], error: type[ArtifactError], words: str) -> None:
    with pytest.raises(error, match=words):
        detect(SourceSpec(zipped(tmp_path / "a.zip", *names)))


def test_suffix_does_not_matter(tmp_path: Path) -> None:
    assert detect(SourceSpec(zipped(tmp_path / "a.onnx", "config.json", "model.weights.h5"))) == "keras"
    assert detect(SourceSpec(zipped(tmp_path / "b.keras", "m/archive_format", "m/models/model.json"))) == "exported"


def test_truncated_zip(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.keras", "config.json", "model.weights.h5")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CorruptFileError, match="truncated or damaged zip"):
        open_source(SourceSpec(path))
