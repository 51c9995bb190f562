"""True ranges of activations: the smallest and largest value that each tensor takes over all samples.

ai-edge-quantizer calibrates by a moving average of each batch's minimum and maximum, which clips what is rare
but real. Here every value counts, and one tensor at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from edgeferry_converter.quiet import foreign
from edgeferry_runtime.errors import DataError
from edgeferry_runtime.tensors import Array

FLOAT32 = 0
LIMIT = 3e38
"""Values beyond it stand for infinity (a padding's minus infinity is one) and belong to no range."""

Ranges = dict[str, dict[str, Any]]


def true_ranges(subject: object, content: bytes, samples: Iterable[Mapping[str, Array]]) -> Ranges:
    """Run a float model over all samples and keep the extremes of every activation.

    Args:
        subject: The model's file, for errors.
        content: A ``.tflite`` file whose tensor names are unique.
        samples: What the model is fed, by signature name (by tensor name where there is no signature).

    Returns:
        The form that ai-edge-quantizer's own calibration has: for each tensor name the arrays ``min`` and
        ``max``, of as many dimensions as the tensor, each of size one.

    Raises:
        DataError: If there are no samples.
        ConversionError: If the interpreter refuses the model.
    """
    extremes: dict[str, tuple[float, float, int]] = {}
    count = 0
    with foreign(subject, "the interpreter could not run it for calibration"):
        runner = _Runner(content)
        for sample in samples:
            count += 1
            for name, value in runner.activations(sample):
                _widen(extremes, name, value)
    if not count:
        raise DataError("--calibrate", "holds no samples", "give at least one")
    return {name: _entry(*found) for name, found in extremes.items()}


def is_constant(model: Any, tensor: Any) -> bool:
    """Tell whether a tensor's values are stored in the file."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _widen(extremes: dict[str, tuple[float, float, int]], name: str, value: Array) -> None:
    finite = value[np.abs(value) < LIMIT]
    if finite.size:
        low, high, _ = extremes.get(name, (np.inf, -np.inf, 0))
        extremes[name] = min(low, float(finite.min())), max(high, float(finite.max())), value.ndim


def _entry(low: float, high: float, ndim: int) -> dict[str, Any]:
    shape = (1,) * ndim
    return {"min": np.full(shape, low, np.float32), "max": np.full(shape, high, np.float32)}


class _Runner:
    """A float model whose every tensor can be read after a run: no delegate, nothing overwritten."""

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
        from ai_edge_litert.tools import flatbuffer_utils

        model = flatbuffer_utils.read_model_from_bytearray(content)
        self._watched = [
            (tensor.name.decode(), index, number)
            for number, subgraph in enumerate(model.subgraphs)
            for index, tensor in enumerate(subgraph.tensors)
            if tensor.type == FLOAT32 and not is_constant(model, tensor)
        ]
        self._interpreter = Interpreter(
            model_content=content,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self._interpreter.allocate_tensors()
        keys = list(self._interpreter.get_signature_list())
        key = "serving_default" if "serving_default" in keys else next(iter(keys), None)
        self._signature = self._interpreter.get_signature_runner(key) if key else None

    def activations(self, sample: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
        """Run one sample and yield the name and values of each float activation that was computed."""
        self._interpreter.reset_all_variables()
        if self._signature is not None:
            self._signature(**sample)
        else:
            self._invoke(sample)
        for name, index, subgraph in self._watched:
            try:
                value: Array = self._interpreter.get_tensor(index, subgraph)
            except ValueError:
                continue
            yield name, value

    def _invoke(self, sample: Mapping[str, Array]) -> None:
        details = self._interpreter.get_input_details()
        for detail in details:
            if tuple(detail["shape"]) != sample[detail["name"]].shape:
                self._interpreter.resize_tensor_input(detail["index"], sample[detail["name"]].shape)
                self._interpreter.allocate_tensors()
        for detail in details:
            self._interpreter.set_tensor(detail["index"], sample[detail["name"]])
        self._interpreter.invoke()
