"""PyTorch sources: names, shapes, example inputs, and weights however they are wrapped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import edgeferry_runtime
from edgeferry_converter.sources import Source, SourceSpec, open_source
from edgeferry_converter.sources.torch_weights import read_state
from edgeferry_runtime.errors import ConversionError, DataError, UnknownFormatError, UnknownNameError
from edgeferry_runtime.numerics import compare_output
from edgeferry_runtime.tensors import TensorSpec

if TYPE_CHECKING:
    from conftest import Lowered, TorchFactory

pytestmark = pytest.mark.slow

PICTURE = np.random.default_rng(0).random((1, 1, 8, 8), dtype=np.float32)


def test_source_of_a_factory(torch_source: Source, torch_factory: TorchFactory) -> None:
    assert torch_source.format == "factory"
    assert torch_source.path == torch_factory.file
    assert torch_source.framework.startswith("torch 2.")
    assert torch_source.inputs == (TensorSpec("image", (1, 1, 8, 8), "float32"),)
    assert torch_source.outputs == (TensorSpec("output_0", (1, 10), "float32"),)


def test_lowered_artifacts_answer_alike(torch_source: Source, torch_lowered: Lowered) -> None:
    expected = torch_source.run({"image": PICTURE})["output_0"]
    for path in torch_lowered:
        model = edgeferry_runtime.load(path)
        assert (model.inputs[0].name, model.inputs[0].shape) == ("image", (1, 1, 8, 8))
        assert compare_output("output_0", expected, model.run({"image": PICTURE})["output_0"]).snr_db > 60
    assert {"torch", "litert-torch", "onnxscript", "onnx"} <= set(torch_source.tools)


def test_running_is_repeatable_and_leaves_training_mode(torch_source: Source) -> None:
    first, second = (torch_source.run({"image": PICTURE})["output_0"] for _ in range(2))
    assert np.array_equal(first, second)


def test_wrong_feed_names_both(torch_source: Source) -> None:
    with pytest.raises(DataError, match=r"was fed \['x'\]; feed exactly the inputs \['image'\]"):
        torch_source.run({"x": PICTURE})


def test_unknown_artifact_format(torch_source: Source, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tflite'"):
        torch_source.lower("tflight", tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_dynamic_batch(torch_factory: TorchFactory) -> None:
    source = open_source(SourceSpec(torch_factory.file, "Net", shapes={"image": (-1, 1, 8, 8)}))
    assert source.inputs[0].shape == (-1, 1, 8, 8)
    assert source.outputs[0].shape == (-1, 10)
    assert source.run({"image": np.repeat(PICTURE, 5, axis=0)})["output_0"].shape == (5, 10)


def test_example_inputs_of_the_factory(torch_factory: TorchFactory) -> None:
    source = open_source(SourceSpec(torch_factory.file, "with_examples"))
    assert [str(t) for t in source.inputs] == ["image float32[1x1x8x8]", "factor float32[1x1]"]
    assert [str(t) for t in source.outputs] == ["logits float32[1x10]", "average float32[1]"]
    answer = source.run({"factor": np.zeros((1, 1), np.float32), "image": PICTURE})
    assert list(answer) == ["logits", "average"]
    assert not answer["logits"].any()
    assert answer["average"][0] == pytest.approx(PICTURE.mean())


FORMS = """
import torch
from torch import nn
from beside import DOUBLE

class Embed(nn.Module):
    def forward(self, tokens, /, scale=None):
        y = tokens.float() * DOUBLE
        return (y if scale is None else y * scale), tokens

def positional():
    return Embed(), torch.arange(6, dtype=torch.int32).reshape(1, 6)

def both():
    return Embed(), (torch.arange(6).reshape(1, 6), torch.ones(1, 1))
"""


def test_other_forms_of_forward(tmp_path: Path) -> None:
    (tmp_path / "forms.py").write_text(FORMS)
    (tmp_path / "beside.py").write_text("DOUBLE = 2\n")
    paths = list(sys.path)
    one = open_source(SourceSpec(tmp_path / "forms.py", "positional"))
    assert [str(t) for t in (*one.inputs, *one.outputs)] == [
        "tokens int32[1x6]",
        "output_0 float32[1x6]",
        "output_1 int32[1x6]",
    ]
    two = open_source(SourceSpec(tmp_path / "forms.py", "both"))
    answer = two.run({"tokens": np.full((1, 6), 3), "scale": np.full((1, 1), 0.5, np.float32)})
    assert answer["output_0"].tolist() == [[3.0] * 6]
    assert sys.path == paths
    assert not list(tmp_path.rglob("__pycache__"))


TOKENS = """
import torch
from torch import nn

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 8)

    def forward(self, tokens):
        y = self.table(tokens).mean(1)
        return y, tokens, y

class Squeeze(nn.Module):
    def forward(self, x):
        return x.squeeze()

def lstm():
    torch.manual_seed(0)
    return nn.LSTM(4, 8, batch_first=True), torch.rand(1, 5, 4)

def tokens():
    torch.manual_seed(0)
    return Tokens(), torch.arange(6).reshape(1, 6)
"""


def test_wide_integers_and_repeated_outputs_survive(tmp_path: Path) -> None:
    (tmp_path / "tokens.py").write_text(TOKENS)
    source = open_source(SourceSpec(tmp_path / "tokens.py", "tokens"))
    feeds = {"tokens": np.array([[1, 49, 0, 7, 7, 3]])}
    expected = source.run(feeds)
    for to in source.lowers_to:
        source.lower(to, tmp_path / to)
        model = edgeferry_runtime.load(tmp_path / to)
        assert (model.inputs, model.outputs) == (source.inputs, source.outputs)
        answer = model.run(feeds)
        assert answer["output_1"].tolist() == feeds["tokens"].tolist()
        for name, reference in expected.items():
            np.testing.assert_allclose(answer[name], reference, atol=1e-6)


def test_nested_outputs_are_named_by_their_path(tmp_path: Path) -> None:
    (tmp_path / "tokens.py").write_text(TOKENS)
    source = open_source(SourceSpec(tmp_path / "tokens.py", "lstm"))
    assert [t.name for t in source.outputs] == ["output_0", "output_1_0", "output_1_1"]
    feeds = {"input": np.random.default_rng(0).random((1, 5, 4), dtype=np.float32)}
    source.lower("onnx", tmp_path / "lstm.onnx")
    answer = edgeferry_runtime.load(tmp_path / "lstm.onnx").run(feeds)
    for name, reference in source.run(feeds).items():
        np.testing.assert_allclose(answer[name], reference, atol=1e-5)


def test_rank_that_hangs_on_the_batch(tmp_path: Path) -> None:
    (tmp_path / "tokens.py").write_text(TOKENS)
    with pytest.raises(ConversionError, match=r"shape \[4\] or \[3, 4\].*give the batch a size"):
        open_source(SourceSpec(tmp_path / "tokens.py", "Squeeze", shapes={"x": (-1, 4)}))


def test_shapes_from_hints(torch_factory: TorchFactory) -> None:
    for hints in ({"image": (1, 1, 8, 8)}, {"": (1, 1, 8, 8)}):
        source = open_source(SourceSpec(torch_factory.file, "Net", hints=hints))
        assert source.inputs[0].shape == (1, 1, 8, 8)


def wrapped(state: Any, form: str) -> Any:
    prefixed = {f"module.{k}": v for k, v in state.items()}
    forms = {
        "plain": state,
        "prefixed": prefixed,
        "below a key": {"epoch": 3, "state_dict": prefixed, "best": 0.9},
        "below another": {"model": state, "optimizer": {"lr": 0.1}},
    }
    return forms[form]


@pytest.mark.parametrize("form", ["plain", "prefixed", "below a key", "below another"])
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_found(
    torch_factory: TorchFactory, torch_source: Source, tmp_path: Path, form: str, zipped: bool
) -> None:
    import torch

    state = torch.load(torch_factory.pt, weights_only=True)
    torch.save(wrapped(state, form), tmp_path / "w.th", _use_new_zipfile_serialization=zipped)
    found = read_state(tmp_path / "w.th")
    assert list(found) == list(state)
    source = open_source(SourceSpec(torch_factory.file, "Net", tmp_path / "w.th", torch_factory.shapes))
    expected = torch_source.run({"image": PICTURE})["output_0"]
    assert np.array_equal(source.run({"image": PICTURE})["output_0"], expected)


def test_safetensors(torch_factory: TorchFactory, torch_source: Source) -> None:
    spec = SourceSpec.parse(torch_factory.text, torch_factory.safetensors, torch_factory.shapes)
    answer = open_source(spec).run({"image": PICTURE})
    assert np.array_equal(answer["output_0"], torch_source.run({"image": PICTURE})["output_0"])


def test_ambiguous_checkpoint(tmp_path: Path) -> None:
    import torch

    state = {"w": torch.ones(1)}
    torch.save({"generator": state, "ema": state}, tmp_path / "w.pt")
    with pytest.raises(
        UnknownFormatError, match="several state dicts: generator, ema; name the one to take: --weights-key generator"
    ):
        read_state(tmp_path / "w.pt")
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(UnknownFormatError, match="holds no state dict"):
        read_state(tmp_path / "w.pt")


def test_exported_program(exported: Path) -> None:
    source = open_source(SourceSpec(exported))
    assert [str(t) for t in source.inputs] == ["image float32[?x1x8x8]", "factor float32[?x1]"]
    assert [str(t) for t in source.outputs] == ["logits float32[?x10]", "average float32[?]"]
    feeds = {"image": np.repeat(PICTURE, 3, axis=0), "factor": np.ones((3, 1), np.float32)}
    assert source.run(feeds)["average"].shape == (3,)
