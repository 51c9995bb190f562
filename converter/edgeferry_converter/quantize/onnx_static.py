"""Static quantization of ONNX files: our ranges, and onnxruntime.quantization's QDQ nodes.

The float model runs with every activation as an output, one sample at a time. onnxruntime's own calibrators keep
the activations of all samples, and know other methods than TFLite's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeferry_converter.quantize import Job
from edgeferry_converter.quantize.calibration.methods import WITHOUT_HISTOGRAM, Range, ranges
from edgeferry_converter.quantize.calibration.observer import Statistics, collect
from edgeferry_runtime.tensors import Array


def calibrated_ranges(job: Job, source: Path) -> dict[str, Range]:
    """Return the range of every activation of the prepared float model `source`, by the job's method.

    Raises:
        DataError: If there are no samples.
    """
    histograms = job.calibration not in WITHOUT_HISTOGRAM
    seen = job.statistics or observe(source, job.samples or (), histograms=histograms)
    return ranges(seen, job.calibration, job.levels)


def observe(source: Path, samples: Iterable[Mapping[str, Array]], *, histograms: bool = False) -> Statistics:
    """Run a prepared float model over all samples and keep what a calibration method needs of every activation.

    Args:
        source: An ``.onnx`` file.
        samples: What the model is fed, by input name.
        histograms: Whether histograms are kept.

    Raises:
        DataError: If there are no samples.
    """
    return collect(_Runner(source).activations, samples, histograms)


class _Runner:
    """A float model whose every float activation is an output."""

    def __init__(self, source: Path) -> None:
        import onnxruntime
        from onnx import TensorProto
        from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

        model = load_model_with_shape_infer(source)
        weights = {tensor.name for tensor in model.graph.initializer}
        outputs = {value.name for value in model.graph.output}
        made = {name for node in model.graph.node for name in node.output}
        inner = [value for value in model.graph.value_info if value.name in made - outputs]
        model.graph.output.extend(v for v in inner if v.type.tensor_type.elem_type == TensorProto.FLOAT)
        self._inputs = [value.name for value in model.graph.input if value.name not in weights]
        self._outputs = [value.name for value in model.graph.output]
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def activations(self, sample: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
        """Run one sample and yield the name and values of each float tensor, inputs and outputs among them."""
        values = {name: sample[name] for name in self._inputs}
        values.update(zip(self._outputs, self._session.run(self._outputs, values), strict=True))
        return ((name, value) for name, value in values.items() if value.dtype == "float32")


def quantize_static(source: Path, target: Path, found: Mapping[str, Range], **options: Any) -> None:
    """Write the QDQ form of a prepared float model.

    Args:
        source: The float model.
        target: Where the quantized one is written.
        found: The range of every activation, by name.
        **options: Those of `onnxruntime.quantization.quantize_static` that concern no calibration:
            ``activation_type``, ``weight_type``, ``op_types_to_quantize``, ``per_channel``, ``reduce_range``,
            ``nodes_to_quantize``, ``nodes_to_exclude`` and ``extra_options``.
    """
    import numpy as np
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, TensorData, TensorsData
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    data = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in found.items()
    }
    quantizer = QDQQuantizer(
        load_model_with_shape_infer(source),
        options.get("per_channel", True),
        options.get("reduce_range", False),
        options["weight_type"],
        options["activation_type"],
        TensorsData(CalibrationMethod.MinMax, data),
        options.get("nodes_to_quantize") or [],
        options.get("nodes_to_exclude") or [],
        options["op_types_to_quantize"],
        options.get("extra_options") or {},
    )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(target, False)
