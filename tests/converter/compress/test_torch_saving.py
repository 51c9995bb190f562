"""What a PyTorch network is saved as opens again: as an exported program, and as a module of its own factory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from edgeferry_converter.compress.on_torch.network import TorchNetwork, open_network
from edgeferry_converter.compress.on_torch.saving import CODE, WEIGHTS, code, shared, weights
from edgeferry_converter.inspection import inspect
from edgeferry_converter.sources import Source, SourceSpec, open_source
from edgeferry_converter.sources.torch_shapes import call_by_name
from edgeferry_runtime import load
from edgeferry_runtime.errors import ConversionError
from edgeferry_runtime.tensors import Array, TensorSpec

pytestmark = pytest.mark.slow


class Factory(Protocol):
    """The fixture of the same name."""

    file: Path
    text: str
    pt: Path


@pytest.fixture
def network(torch_factory: Factory) -> TorchNetwork:
    return open_network(SourceSpec.parse(torch_factory.text, torch_factory.pt, {"image": (-1, 1, 8, 8)}))


@pytest.fixture
def smaller(network: TorchNetwork) -> TorchNetwork:
    graph = network.channels()
    return network.resized(graph.without(network.state(), graph.roots(graph.layers["conv"])[1:4].tolist()))


def picture(count: int = 1) -> dict[str, Array]:
    return {"image": np.random.default_rng(0).standard_normal((count, 1, 8, 8)).astype(np.float32)}


def test_the_program_is_the_network(smaller: TorchNetwork, tmp_path: Path) -> None:
    path = smaller.save(tmp_path)
    assert path == tmp_path / "model.pt2"
    source = open_source(SourceSpec(path))
    assert (source.inputs, source.outputs) == (smaller.inputs, smaller.outputs)
    np.testing.assert_allclose(source.run(picture(5))["output_0"], smaller.predict(picture(5))["output_0"], atol=1e-6)


@pytest.mark.parametrize("batch", [1, -1])
def test_names_and_orders_survive(torch_factory: Factory, tmp_path: Path, batch: int) -> None:
    shapes = {"image": (batch, 1, 8, 8), "factor": (batch, 1)}
    spec = SourceSpec.parse(f"{torch_factory.file}:with_examples", None, shapes)
    made = open_network(spec)
    source = open_source(SourceSpec(made.save(tmp_path)))
    assert (source.inputs, source.outputs) == (made.inputs, made.outputs)
    assert [t.name for t in made.outputs] == ["logits", "average"]


def test_the_program_is_lowered_as_the_factory_is(network: TorchNetwork, torch_source: Source, tmp_path: Path) -> None:
    open_source(SourceSpec(network.save(tmp_path))).lower("tflite", tmp_path / "program.tflite")
    torch_source.lower("tflite", tmp_path / "factory.tflite")
    with load(tmp_path / "program.tflite") as program, load(tmp_path / "factory.tflite") as factory:
        assert [t.name for t in program.inputs] == [t.name for t in factory.inputs]
        np.testing.assert_array_equal(program(picture()["image"]), factory(picture()["image"]))
    operators = [[layer.operator for layer in inspect(tmp_path / f"{n}.tflite").layers] for n in ("program", "factory")]
    assert operators[0] == operators[1]


def test_the_code_makes_the_module_for_ferry(smaller: TorchNetwork, tmp_path: Path) -> None:
    smaller.save(tmp_path)
    again = open_network(SourceSpec.parse(f"{tmp_path / 'model.py'}:with_examples"))
    assert again.module.conv.out_channels == 5
    np.testing.assert_array_equal(again.predict(picture())["output_0"], smaller.predict(picture())["output_0"])


def test_the_code_needs_no_edgeferry_and_trains(smaller: TorchNetwork, tmp_path: Path) -> None:
    smaller.save(tmp_path)
    script = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import model
net = model.model().train()
step = torch.optim.SGD(net.parameters(), 0.1)
net(torch.rand(4, 1, 8, 8)).square().mean().backward()
step.step()
assert not [name for name in sys.modules if name.startswith("edgeferry")]
print(net.norm.num_features, net.dense.in_features)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["5", "320"], done.stderr


SIZED = """
from torch import nn, zeros
from beside_the_net import SIZE

def make():
    return nn.Linear(4, SIZE), zeros(1, 4)
"""


def test_each_code_finds_what_lies_beside_its_own_original(tmp_path: Path) -> None:
    """Also where other originals have modules of that name, and files that are opened themselves."""
    for size in (1, 2):
        folder = tmp_path / str(size)
        (folder / "out").mkdir(parents=True)
        (folder / "net.py").write_text(SIZED)
        (folder / "beside_the_net.py").write_text(f"SIZE = {size}\n")
        made = open_network(SourceSpec.parse(f"{folder / 'net.py'}:make"))
        weights(made, folder / "out" / WEIGHTS)
        (folder / "out" / CODE).write_text(code(made))
    for size, file in ((1, "out/model.py:with_examples"), (2, "out/model.py:with_examples"), (1, "net.py:make")):
        again = open_network(SourceSpec.parse(f"{tmp_path / str(size) / file}"))
        assert again.module.out_features == size


def test_the_code_holds_values_as_data(network: TorchNetwork, tmp_path: Path) -> None:
    """A name that looks like code stays a string."""
    evil = 'a"""\'); raise SystemExit(3) #{0}'
    network.numbers = {evil: {"out_channels": 3}}
    network.save(tmp_path)
    space: dict[str, object] = {"__file__": str(tmp_path / "model.py"), "__name__": "m"}
    exec(compile((tmp_path / "model.py").read_text(), "model.py", "exec"), space)
    assert space["SIZES"] == {evil: {"out_channels": 3}}


def test_weights_have_the_modules_names(smaller: TorchNetwork, tmp_path: Path) -> None:
    smaller.save(tmp_path)
    state = load_file(tmp_path / "weights.safetensors")
    assert {name: tuple(t.shape) for name, t in state.items()} == {n: v.shape for n, v in smaller.state().items()}


def test_no_code_where_the_factory_makes_something_else(network: TorchNetwork, tmp_path: Path) -> None:
    """Such as after batch normalization was folded away."""
    network.module.norm = nn.Identity()
    network.save(tmp_path)
    assert not (tmp_path / "model.py").exists()
    assert (tmp_path / "weights.safetensors").exists()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.last.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.last(self.table(tokens))


def opened(module: nn.Module, batch: int, **examples: torch.Tensor) -> TorchNetwork:
    call = call_by_name(module.eval(), examples, [])
    inputs = tuple(TensorSpec(k, (batch, *t.shape[1:]), str(t.dtype)[6:]) for k, t in examples.items())
    return TorchNetwork("module", call, (inputs, (TensorSpec("output_0", (batch, 7), "float32"),)))


def test_shared_parameters_stay_shared(tmp_path: Path) -> None:
    made = opened(Tied(), -1, tokens=torch.zeros(1, 3, dtype=torch.int64))
    assert shared(made.module) == {"last.weight": "table.weight"}
    made.save(tmp_path)
    state = load_file(tmp_path / "weights.safetensors")
    assert torch.equal(state["last.weight"], state["table.weight"])


class Unexportable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(x) if float(x.sum()) > 0 else self.dense(-x)


def test_what_cannot_be_exported_leaves_its_weights(tmp_path: Path) -> None:
    made = opened(Unexportable(), 1, x=torch.ones(1, 4))
    with pytest.raises(ConversionError, match=r"torch.export could not save it .*weights.safetensors"):
        made.save(tmp_path)
    assert set(load_file(tmp_path / "weights.safetensors")) == {"dense.weight", "dense.bias"}
    with pytest.raises(ConversionError, match=r"torch.export could not trace it"):
        made.channels()
