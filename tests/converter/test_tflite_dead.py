"""Channels whose weights are all zero keep their biases in an int8 artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_converter.data import Samples, open_data
from edgeferry_converter.quantize import Job, quantize
from edgeferry_converter.sources.signature import pack
from edgeferry_runtime.model import load

flatbuffers = pytest.importorskip("ai_edge_litert.tools.flatbuffer_utils")
pytest.importorskip("ai_edge_quantizer")
MODELS = Path(__file__).parent / "models"
CONV_2D, BIAS = 3, 0.5


@pytest.fixture
def dead(tmp_path: Path) -> Path:
    """The digits model; two channels of its first convolution have a bias and no weights."""
    model: Any = flatbuffers.read_model(str(MODELS / "digits.tflite"))
    graph = model.subgraphs[0]
    codes = [model.operatorCodes[o.opcodeIndex].builtinCode for o in graph.operators]
    operator = graph.operators[codes.index(CONV_2D)]
    for index, value in ((1, 0.0), (2, BIAS)):
        tensor = graph.tensors[operator.inputs[index]]
        buffer = model.buffers[tensor.buffer]
        values = np.frombuffer(bytes(buffer.data), np.float32).reshape(tensor.shape).copy()
        values[:2] = value
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    path = tmp_path / "dead.tflite"
    path.write_bytes(pack(model))
    return path


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_biases_of_empty_channels_stay(dead: Path, tmp_path: Path, rounding: str) -> None:
    samples: Samples = open_data(MODELS / "digits.npz").bind(load(dead).inputs)
    target = tmp_path / "int8.tflite"
    quantize("tflite", Job(dead, target, "int8", samples=samples, rounding=rounding))
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(target))
    interpreter.allocate_tensors()
    found = [(d, d["quantization_parameters"]["scales"]) for d in interpreter.get_tensor_details()]
    biases = [interpreter.get_tensor(d["index"]) * s for d, s in found if d["dtype"] is np.int32 and s.size > 2]
    assert biases
    assert any(np.allclose(values[:2], BIAS, rtol=1e-3) for values in biases)
