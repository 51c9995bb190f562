"""TorchScript: traced and scripted networks lower to both formats; what could reach out is refused."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeferry_runtime
from edgeferry_converter import convert
from edgeferry_converter.quiet import quiet
from edgeferry_converter.sources import Source, SourceSpec, detect, open_source
from edgeferry_runtime.errors import (
    ArtifactError,
    ConversionError,
    CorruptFileError,
    UnknownNameError,
    UnsafeFileError,
    UsageError,
)

pytestmark = pytest.mark.slow

NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.dense = nn.Linear(128, 10)

    def forward(self, image):
        x = torch.relu(self.norm(self.conv(image)))
        if x.size(2) > 4:
            x = nn.functional.max_pool2d(x, 2)
        x = torch.cat([x[:, :4], x[:, 4:] * 2], 1)
        return self.dense(x.view(x.size(0), -1)).softmax(1)


class Two(nn.Module):
    def forward(self, a, b):
        return {"sum": a + b, "product": a * b}


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = torch.zeros(1)

    def forward(self, x):
        self.seen = self.seen + 1
        return x * self.seen


class Decides(nn.Module):
    def forward(self, x):
        if bool(x.sum() > 0):
            return x * 2
        return x


class Rate(nn.Module):
    def forward(self, x, rate: int):
        return x * rate


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Two()
        self.seen = torch.zeros(1, 3)

    def forward(self, a, rate: int, more: float = 0.5):
        if rate not in (8, 16):
            raise ValueError("no such rate")
        self.seen = self.part(a, self.seen)["sum"]
        return self.seen * rate + more


class Saves(nn.Module):
    def forward(self, x):
        torch.save(x, "/tmp/edgeferry-was-here")
        return x
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ``traced.pt`` and one scripted archive per class."""
    folder = tmp_path_factory.mktemp("torchscript")
    file = folder / "nets.py"
    file.write_text(NETS)
    space: dict[str, Any] = {"__name__": "nets"}
    with quiet():
        import linecache

        import torch

        linecache.cache[str(file)] = (len(NETS), None, NETS.splitlines(keepends=True), str(file))
        exec(compile(NETS, str(file), "exec"), space)
        torch.manual_seed(0)
        net = space["Net"]().eval()
        torch.jit.save(torch.jit.trace(net, torch.rand(1, 1, 8, 8)), folder / "traced.pt")
        for name in ("Two", "Counts", "Decides", "Rate", "Detector", "Saves"):
            torch.jit.save(torch.jit.script(space[name]().eval()), folder / f"{name}.jit")
        torch.jit.save(torch.jit.script(net), folder / "Net.jit")
    return folder


@pytest.mark.parametrize("name", ["traced.pt", "Net.jit"])
def test_a_network_answers_alike_in_both_formats(scripts: Path, tmp_path: Path, name: str) -> None:
    source = open_source(SourceSpec(scripts / name, shapes={"image": (-1, 1, 8, 8)}))
    assert source.format == "torchscript"
    assert [str(t) for t in (*source.inputs, *source.outputs)] == ["image float32[?x1x8x8]", "output_0 float32[?x10]"]
    picture = np.random.default_rng(0).random((1, 1, 8, 8), dtype=np.float32)
    expected = source.run({"image": picture})["output_0"]
    for to in source.lowers_to:
        source.lower(to, tmp_path / to)
        with edgeferry_runtime.load(tmp_path / to) as model:
            np.testing.assert_allclose(model(picture), expected, atol=1e-6)
            batch = -1 if to == "onnx" else 1
            assert model.inputs[0].shape == (batch, 1, 8, 8)
    assert np.array_equal(source.run({"image": picture})["output_0"], expected)


def test_two_inputs_by_name(scripts: Path, tmp_path: Path) -> None:
    source = open_source(SourceSpec(scripts / "Two.jit", shapes={"b": (1, 3), "a": (1, 3)}))
    assert [t.name for t in source.inputs] == ["a", "b"]
    assert [t.name for t in source.outputs] == ["sum", "product"]
    source.lower("onnx", tmp_path / "m.onnx")
    feeds = {"a": np.float32([[1, 2, 3]]), "b": np.float32([[4, 5, 6]])}
    with edgeferry_runtime.load(tmp_path / "m.onnx") as model:
        assert model.run(feeds)["product"].tolist() == [[4, 10, 18]]


def test_shapes_come_from_flags_or_data(scripts: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not tell the shape of the input 'image'; give --shape image="):
        open_source(SourceSpec(scripts / "traced.pt"))
    np.savez(tmp_path / "x.npz", image=np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32))
    bundle = convert(scripts / "traced.pt", tmp_path / "b", probe=tmp_path / "x.npz", to="onnx")
    assert bundle.manifest.source["format"] == "torchscript"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Counts", "keeps state between calls .it sets seen."),
        ("Decides", r"decides by the value of a tensor \(aten::Bool, at .*nets.py"),
        ("Rate", r"takes what is no tensor: rate \(int\)"),
    ],
)
def test_what_cannot_be_lowered_says_why(scripts: Path, tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ConversionError, match=words):
        open_source(SourceSpec(scripts / f"{name}.jit", shapes={"x": (1, 3)})).lower("onnx", tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_code_that_reaches_out_is_refused_before_it_is_loaded(scripts: Path) -> None:
    with pytest.raises(UnsafeFileError, match="its code names 'save'"):
        open_source(SourceSpec(scripts / "Saves.jit", shapes={"x": (1, 3)}))


def edited(path: Path, copy: Path, old: bytes, new: bytes) -> Path:
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content.replace(old, new) if name.endswith(".py") else content)
    return copy


@pytest.mark.parametrize(
    "call", [b"ops.evil.run(", b"torch.from_file(", b"torch . save(", b"__torch__.torch.classes.dist_rpc.X("]
)
def test_ways_out_of_torchscript(scripts: Path, tmp_path: Path, call: bytes) -> None:
    path = edited(scripts / "traced.pt", tmp_path / "a.pt", b"torch.relu(", call)
    with pytest.raises(UnsafeFileError, match="could reach out"):
        open_source(SourceSpec(path, shapes={"image": (1, 1, 8, 8)}))


def test_compiled_classes_among_the_data(scripts: Path, tmp_path: Path) -> None:
    path = edited(scripts / "traced.pt", tmp_path / "a.pt", b"", b"")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("traced/more.pkl", b"c__torch__.torch.classes.dist_rpc\nX\n")
    with pytest.raises(UnsafeFileError, match=r"names a compiled class .traced/more\.pkl."):
        open_source(SourceSpec(path, shapes={"image": (1, 1, 8, 8)}))


def test_a_pickle_of_the_archive_is_not_executed_by_python(scripts: Path, tmp_path: Path) -> None:
    """``data.pkl`` names a class of Python; PyTorch's own reader knows only classes of the archive."""
    import pickle

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "mark",)

    path = tmp_path / "a.pt"
    with zipfile.ZipFile(scripts / "traced.pt") as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, pickle.dumps(Bomb(), 2) if name.endswith("/data.pkl") else source.read(name))
    assert detect(SourceSpec(path)) == "torchscript"
    with pytest.raises(ArtifactError, match=r"torch\.jit could not load it"):
        open_source(SourceSpec(path, shapes={"image": (1, 1, 8, 8)}))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_truncated(scripts: Path, tmp_path: Path, keep: float) -> None:
    content = (scripts / "traced.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(CorruptFileError):
        open_source(SourceSpec(tmp_path / "a.pt"))


def test_a_number_is_held(scripts: Path, tmp_path: Path) -> None:
    spec = SourceSpec(scripts / "Rate.jit", shapes={"x": (1, 3)}, constants={"rate": 3})
    source = open_source(spec)
    assert [t.name for t in source.inputs] == ["x"]
    x = np.float32([[1, 2, 3]])
    assert source.run({"x": x})["output_0"].tolist() == [[3, 6, 9]]
    source.lower("onnx", tmp_path / "m.onnx")
    with edgeferry_runtime.load(tmp_path / "m.onnx") as model:
        assert model(x).tolist() == [[3, 6, 9]]
    with pytest.raises(UsageError, match=r"takes int, not 0\.5"):
        open_source(replace(spec, constants={"rate": 0.5}))
    with pytest.raises(UsageError, match="is data"):
        open_source(replace(spec, constants={"rate": 3, "x": 1}))
    with pytest.raises(ConversionError, match=r"no tensor: rate \(int\); give it a value: --constant rate=NUMBER"):
        open_source(replace(spec, constants={}))


def test_a_part_that_keeps_no_state_is_the_model(scripts: Path, tmp_path: Path) -> None:
    spec = SourceSpec(scripts / "Detector.jit", shapes={"a": (1, 3)}, constants={"rate": 8})
    with pytest.raises(ConversionError, match=r"it sets seen.*or choose a part that keeps none: --submodule, of part"):
        open_source(spec).lower("onnx", tmp_path / "m.onnx")
    with pytest.raises(UnknownNameError, match="did you mean 'part'"):
        open_source(replace(spec, submodule="parts"))
    part = SourceSpec(spec.path, shapes={"a": (1, 3), "b": (1, 3)}, submodule="part")
    source = open_source(part)
    assert [t.name for t in (*source.inputs, *source.outputs)] == ["a", "b", "sum", "product"]
    source.lower("onnx", tmp_path / "m.onnx")


@pytest.mark.zoo
def test_the_speech_detector_and_its_onnx_agree(zoo: Path, tmp_path: Path) -> None:
    path = next((zoo / "silero-vad").rglob("silero_vad.jit"))
    with pytest.raises(ConversionError, match=r"takes what is no tensor: sr \(int\)"):
        open_source(SourceSpec(path, shapes={"x": (1, 512)}))
    part = open_source(SourceSpec(path, shapes={"x": (1, 576), "state": (2, 1, 128)}, submodule="_model"))
    random = np.random.default_rng(0)
    feeds = {"x": (1, 576), "state": (2, 1, 128)}
    feeds = {name: (random.standard_normal(size) * 0.1).astype(np.float32) for name, size in feeds.items()}
    other = open_source(SourceSpec(path.with_suffix(".onnx"), constants={"sr": 16000}))
    expected = other.run({"input": feeds["x"], "state": feeds["state"]})
    for answers in (part.run(feeds), _lowered(part, tmp_path / "m.tflite", feeds)):
        np.testing.assert_allclose(answers["output_0"], expected["output"], atol=1e-5)
        np.testing.assert_allclose(answers["output_1"], expected["stateN"], atol=1e-5)


def _lowered(source: Source, path: Path, feeds: dict[str, Any]) -> dict[str, Any]:
    source.lower("tflite", path)
    with edgeferry_runtime.load(path) as model:
        return model.run(feeds)
