"""Ranges of the activations of a TFLite file, from runs of the float model over all samples.

ai-edge-quantizer calibrates by a moving average of each batch's minimum and maximum, which clips what is rare
but real. Here every value counts, and one sample's activations at a time are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from edgeferry_converter.data import Samples
from edgeferry_converter.quantize import Job
from edgeferry_converter.quantize.calibration.methods import WITHOUT_HISTOGRAM, ranges
from edgeferry_converter.quantize.calibration.observer import Statistics, collect
from edgeferry_converter.quantize.rounding import GPTQ
from edgeferry_converter.quantize.tflite_rounding import Inputs
from edgeferry_converter.quiet import foreign
from edgeferry_converter.sources.tflite_edit import tree_of
from edgeferry_runtime.tensors import Array

FLOAT32 = 0

Feeds = Samples | Sequence[Mapping[str, Array]]
"""What a model is fed, sample by sample; how many there are is known."""
Ranges = dict[str, dict[str, Any]]


def seen(job: Job, content: bytes) -> Statistics:
    """Return what a job's method needs of every activation: what it holds already, or else what a pass sees.

    Raises:
        DataError: If there are no samples.
        ConversionError: If the interpreter refuses the model.
    """
    histograms = job.calibration not in WITHOUT_HISTOGRAM
    return job.statistics or observe_signatures(job, content, histograms=histograms)


def calibrated_ranges(job: Job, statistics: Statistics) -> Ranges:
    """Return the range of every activation, known or by the job's method, in the form that ai-edge-quantizer takes.

    Returns:
        For each tensor name the arrays ``min`` and ``max``, of as many dimensions as the tensor, each of size one.
    """
    tensors = statistics.tensors
    return {
        name: {"min": _one(low, tensors[name].dimensions), "max": _one(high, tensors[name].dimensions)}
        for name, (low, high) in {**ranges(statistics, job.calibration, job.levels), **job.known}.items()
    }


def observe_signatures(job: Job, content: bytes, *, histograms: bool) -> Statistics:
    """Run each signature of a job's model over its own samples; see `observe`.

    Every activation belongs to one signature, and a loop's to the first that ran it.
    """
    feeds: Mapping[str, Feeds] = job.signatures or {"": job.samples or ()}
    wanted = Wanted(histograms, job.rounding == GPTQ)
    found = [observe(job.subject, content, feeds[key], wanted, key=key or None) for key in feeds]
    tensors = {name: observer for one in reversed(found) for name, observer in one.tensors.items()}
    inputs = {name: moments for one in found for name, moments in one.inputs.items()}
    return Statistics(histograms, sum(one.samples for one in found), tensors, inputs)


class Wanted(NamedTuple):
    """What shall be kept beside the extremes of every activation.

    Attributes:
        histograms: What most calibration methods need.
        inputs: What rounding by GPTQ needs.
        sums: What trained ranges are matched by.
    """

    histograms: bool = False
    inputs: bool = False
    sums: bool = False


def observe(
    subject: object,
    content: bytes,
    samples: Feeds,
    wanted: Wanted,
    *,
    key: str | None = None,
) -> Statistics:
    """Run a float model over all samples and keep what a calibration method needs of every activation.

    Args:
        subject: The model's file, for errors.
        content: A ``.tflite`` file whose tensor names are unique.
        samples: What the model is fed, by signature name (by tensor name where there is no signature).
        wanted: What is kept of them.
        key: The signature to run; None takes the primary one.

    Raises:
        DataError: If there are no samples.
        ConversionError: If the interpreter refuses the model.
    """
    with foreign(subject, "the interpreter could not run it for calibration"):
        runner = _Runner(content, key)
        inputs = Inputs(tree_of(content), runner.subgraph, len(samples)) if wanted.inputs else None
        return collect(runner.activations, samples, wanted.histograms, inputs, wanted.sums)


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
        entered = {signature.signatureKey.decode(): signature.subgraphIndex for signature in model.signatureDefs or ()}
        self.subgraph = int(entered[key]) if key else 0

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
