"""Ranges of the activations of a TFLite file, from runs of the float model over all samples.

ai-edge-quantizer calibrates by a moving average of each batch's minimum and maximum, which clips what is rare
but real. Here every value counts, and one sample's activations at a time are in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from edgeferry_converter.quantize import Job
from edgeferry_converter.quantize.calibration.methods import WITHOUT_HISTOGRAM, ranges
from edgeferry_converter.quantize.calibration.observer import Statistics, collect
from edgeferry_converter.quiet import foreign
from edgeferry_runtime.tensors import Array

FLOAT32 = 0

Ranges = dict[str, dict[str, Any]]


def calibrated_ranges(job: Job, content: bytes) -> Ranges:
    """Return the range of every activation by the job's method, in the form that ai-edge-quantizer takes.

    Returns:
        For each tensor name the arrays ``min`` and ``max``, of as many dimensions as the tensor, each of size one.

    Raises:
        DataError: If there are no samples.
        ConversionError: If the interpreter refuses the model.
    """
    histograms = job.calibration not in WITHOUT_HISTOGRAM
    seen = job.statistics or observe_signatures(job, content, histograms=histograms)
    return {
        name: {"min": _one(low, seen.tensors[name].dimensions), "max": _one(high, seen.tensors[name].dimensions)}
        for name, (low, high) in ranges(seen, job.calibration, job.levels).items()
    }


def observe_signatures(job: Job, content: bytes, *, histograms: bool) -> Statistics:
    """Run each signature of a job's model over its own samples; see `observe`.

    Every activation belongs to one signature, and a loop's to the first that ran it.
    """
    feeds: Mapping[str, Iterable[Mapping[str, Array]]] = job.signatures or {"": job.samples or ()}
    seen = [observe(job.subject, content, feeds[key], histograms=histograms, key=key or None) for key in feeds]
    tensors = {name: observer for one in reversed(seen) for name, observer in one.tensors.items()}
    return Statistics(histograms, sum(one.samples for one in seen), tensors)


def observe(
    subject: object,
    content: bytes,
    samples: Iterable[Mapping[str, Array]],
    *,
    histograms: bool = False,
    key: str | None = None,
) -> Statistics:
    """Run a float model over all samples and keep what a calibration method needs of every activation.

    Args:
        subject: The model's file, for errors.
        content: A ``.tflite`` file whose tensor names are unique.
        samples: What the model is fed, by signature name (by tensor name where there is no signature).
        histograms: Whether histograms are kept.
        key: The signature to run; None takes the primary one.

    Raises:
        DataError: If there are no samples.
        ConversionError: If the interpreter refuses the model.
    """
    with foreign(subject, "the interpreter could not run it for calibration"):
        return collect(_Runner(content, key).activations, samples, histograms)


def _one(value: float, dimensions: int) -> Array:
    return np.full((1,) * dimensions, value, np.float32)


def is_constant(model: Any, tensor: Any) -> bool:
    """Tell whether a tensor's values are stored in the file."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


class _Runner:
    """A float model whose every tensor can be read after a run: no delegate, nothing overwritten."""

    def __init__(self, content: bytes, key: str | None = None) -> None:
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
        if key is None:
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
