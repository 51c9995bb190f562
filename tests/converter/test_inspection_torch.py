"""Exported programs, read from their JSON; and TorchScript, read by PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edgeferry_converter.inspection import Inspection, inspect
from edgeferry_converter.inspection.text import render
from edgeferry_converter.quiet import quiet
from edgeferry_runtime.errors import CorruptFileError, EdgeferryError, UnsafeFileError


def tensor(*sizes: int | None, dtype: int = 7) -> dict[str, Any]:
    given = [{"as_expr": {"expr_str": "s0"}} if size is None else {"as_int": size} for size in sizes]
    return {"dtype": dtype, "sizes": given}


def named(name: str) -> dict[str, Any]:
    return {"as_tensor": {"name": name}}


def operation(target: str, inputs: list[dict[str, Any]], output: str) -> dict[str, Any]:
    given = [{"name": f"arg{i}", "arg": one} for i, one in enumerate(inputs)]
    return {"target": target, "inputs": given, "outputs": [named(output)]}


def program() -> dict[str, Any]:
    values = {"p_w": tensor(4, 3, 3, 3), "x": tensor(None, 3, 8, 8), "conv": tensor(None, 4, 8, 8)}
    values |= {"p_v": tensor(2, 256, dtype=6), "flat": tensor(None, 256), "y": tensor(None, 2), "own": tensor(None, 2)}
    nodes = [
        operation("torch.ops.aten.conv2d.default", [named("x"), named("p_w"), {"as_none": True}], "conv"),
        operation("torch.ops.aten.flatten.using_ints", [named("conv"), {"as_int": 1}], "flat"),
        operation("torch.ops.aten.linear.default", [named("flat"), named("p_v")], "y"),
        operation("torch.ops.mine.blur.default", [{"as_tensors": [{"name": "y"}, {"name": "y"}]}], "own"),
    ]
    stored = [{"parameter": {"arg": {"name": f"p_{k}"}, "parameter_name": f"{k}.weight"}} for k in "wv"]
    signature = {
        "input_specs": [*stored, {"user_input": {"arg": named("x")}}],
        "output_specs": [{"user_output": {"arg": named("own")}}],
    }
    graph = {"nodes": nodes, "tensor_values": values}
    return {"graph_module": {"graph": graph, "signature": signature}, "torch_version": "2.13.0"}


def archive(path: Path, content: object, entry: str = "m/models/model.json") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("m/archive_format", "pt2")
        file.writestr(entry, content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("entry", ["m/models/model.json", "serialized_exported_program.json"])
def test_a_program_is_read_from_its_json(tmp_path: Path, entry: str) -> None:
    found = inspect(archive(tmp_path / "m.pt2", program(), entry))
    assert [(x.name, x.operator, x.parameters, x.macs) for x in found.layers] == [
        ("w", "aten.conv2d", 108, 8 * 8 * 108),
        ("flat", "aten.flatten", 0, 0),
        ("v", "aten.linear", 512, 512),
        ("own", "mine.blur", 0, 0),
    ]
    assert found.layers[2].precision == "float32 x float16"
    assert [(s.name, s.shape) for s in (*found.inputs, *found.outputs)] == [("x", (-1, 3, 8, 8)), ("own", (-1, 2))]
    assert (found.custom, found.metadata) == (("mine.blur",), {"PyTorch": "2.13.0"})


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"graph_module": {"graph": 3}}', "[" * 100_000])
def test_json_of_another_shape_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(CorruptFileError, match="its program cannot be read"):
        inspect(archive(tmp_path / "m.pt2", content))


def test_a_value_that_is_missing_is_refused(tmp_path: Path) -> None:
    for key in ("x", "p_w"):
        broken = program()
        del broken["graph_module"]["graph"]["tensor_values"][key]
        try:
            inspect(archive(tmp_path / "m.pt2", broken))
        except EdgeferryError as error:
            assert "cannot be read" in str(error)


def test_an_archive_without_a_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="there is none in the archive"):
        inspect(archive(tmp_path / "m.pt2", "{}", "m/data/other.json"))


@pytest.mark.slow
def test_a_real_program_is_read_without_pytorch(exported: Path) -> None:
    code = "import sys; from edgeferry_converter.inspection import inspect; found = inspect(sys.argv[1])"
    code += "\nprint(found.macs, found.parameters, *[s.name for s in (*found.inputs, *found.outputs)], *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(exported)], capture_output=True, text=True, check=True)
    macs, parameters, *rest = done.stdout.split()
    assert (int(macs), int(parameters)) == (8 * 8 * 72 + 5120, 80 + 32 + 5130)
    assert rest[:4] == ["image", "factor", "logits", "average"]
    assert "torch" not in rest


NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.again = self.conv
        self.dense = nn.Linear(512, 10)
        self.drop = nn.Dropout()

    def forward(self, image, times: int):
        x = torch.relu(self.conv(image))
        if times > 3:
            x = x * 2
        both = torch.cat([x, self.again(x[:, :1])])
        return {"logits": self.dense(self.drop(both).flatten(1)), "pair": (x, both)}
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("script")
    (folder / "scripted_net.py").write_text(NETS)
    code = "import torch, scripted_net as n; torch.jit.save(torch.jit.script(n.Net().eval()), 'net.pt')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=folder, check=True, capture_output=True)
    return folder / "net.pt"


@pytest.fixture(scope="module")
def scripted(script: Path) -> Inspection:
    return inspect(script)


@pytest.mark.slow
def test_torchscript_tells_operators_and_weights(scripted: Inspection) -> None:
    weights = [(x.name, x.operator, x.parameters) for x in scripted.layers if x.weight]
    assert weights == [
        ("conv", "aten.conv2d", 80),
        ("again", "aten.conv2d", 0),
        ("dense", "aten.linear", 5130),
    ], "shared weights count once"
    kinds = {operator.name for operator in scripted.operators}
    assert {"aten.relu", "aten.mul", "aten.cat", "prim.If"} <= kinds
    assert not any(kind.startswith("prim.") and kind != "prim.If" for kind in kinds)


@pytest.mark.slow
def test_torchscript_says_what_it_cannot_tell(scripted: Inspection) -> None:
    assert scripted.macs is None
    assert [(s.name, s.dtype) for s in scripted.inputs] == [("image", ""), ("times", "int")]
    assert [s.name for s in scripted.outputs] == ["logits", "pair_0", "pair_1"]
    assert any("tells no shapes" in note for note in scripted.notes)
    text = render(scripted)
    assert "input   image   ?      ?" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.slow
def test_torchscript_that_could_reach_out_is_not_loaded(tmp_path: Path) -> None:
    with quiet():
        import torch

        module = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
        torch.jit.save(module, str(tmp_path / "good.pt"))
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / "bad.pt", "w") as bad:
        for entry in good.namelist():
            text = good.read(entry)
            bad.writestr(entry, text + b"\n# torch.save" if entry.endswith(".py") else text)
    with pytest.raises(UnsafeFileError, match="'save'"):
        inspect(tmp_path / "bad.pt")


@pytest.mark.slow
def test_damaged_torchscript_is_refused(script: Path, tmp_path: Path) -> None:
    content = script.read_bytes()
    (tmp_path / "half.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFileError):
        inspect(tmp_path / "half.pt")
    with zipfile.ZipFile(script) as good, zipfile.ZipFile(tmp_path / "bad.pt", "w") as bad:
        for entry in good.namelist():
            bad.writestr(entry, b"def forward(" if entry.endswith("scripted_net.py") else good.read(entry))
    with pytest.raises(EdgeferryError, match=r"bad\.pt"):
        inspect(tmp_path / "bad.pt")


@pytest.mark.zoo
@pytest.mark.slow
def test_the_speech_detector_is_read(zoo: Path) -> None:
    found = inspect(next((zoo / "silero-vad").rglob("silero_vad.jit")))
    assert {"aten.conv1d", "aten.lstm_cell"} <= {operator.name for operator in found.operators}
    assert found.parameters == pytest.approx(2_272_526 / 4, rel=0.05)
    assert [(s.name, s.dtype) for s in found.inputs] == [("x", ""), ("sr", "int")]
