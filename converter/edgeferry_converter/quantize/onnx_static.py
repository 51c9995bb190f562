"""Static quantization of ONNX files: our ranges, and onnxruntime.quantization's QDQ nodes.

The float model runs with every activation as an output, one sample at a time. onnxruntime's own calibrators keep
the activations of all samples, and know other methods than TFLite's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeferry_converter import onnx_file
from edgeferry_converter.quantize import Job
from edgeferry_converter.quantize.calibration.methods import WITHOUT_HISTOGRAM, Range, ranges
from edgeferry_converter.quantize.calibration.observer import Statistics, collect
from edgeferry_converter.quantize.onnx_plan import JOINED, static_kinds
from edgeferry_converter.quantize.onnx_weights import opset
from edgeferry_runtime.tensors import Array

BROKEN_OPSET = 21
"""From here on QuantizeLinear tells the type of its output, and ONNX Runtime 1.31 changes the zero point's alone."""


def calibrated_ranges(job: Job, source: Path) -> dict[str, Range]:
    """Return the range of every activation of the prepared float model `source`, known or by the job's method.

    Raises:
        DataError: If there are no samples.
    """
    histograms = job.calibration not in WITHOUT_HISTOGRAM
    seen = job.statistics or observe(source, job.samples or (), histograms=histograms)
    return {**ranges(seen, job.calibration, job.levels), **job.known}


def observe(
    source: Path, samples: Iterable[Mapping[str, Array]], *, histograms: bool = False, sums: bool = False
) -> Statistics:
    """Run a prepared float model over all samples and keep what a calibration method needs of every activation.

    Args:
        source: An ``.onnx`` file.
        samples: What the model is fed, by input name.
        histograms: Whether histograms are kept.
        sums: Whether sums are kept, which trained ranges are matched by.

    Raises:
        DataError: If there are no samples.
    """
    return collect(_Runner(source).activations, samples, histograms, sums=sums)


class _Runner:
    """A float model whose every float activation is an output."""

    def __init__(self, source: Path) -> None:
        import onnx
        import onnxruntime
        from onnx import TensorProto

        model = onnx.shape_inference.infer_shapes(onnx_file.read(source))
        weights = {tensor.name for tensor in model.graph.initializer}
        outputs = {value.name for value in model.graph.output}
        made = {name for node in model.graph.node for name in node.output}
        inner = [value for value in model.graph.value_info if value.name in made - outputs]
        model.graph.output.extend(v for v in inner if v.type.tensor_type.elem_type == TensorProto.FLOAT)
        self._inputs = [value.name for value in model.graph.input if value.name not in weights]
        self._outputs = [value.name for value in model.graph.output]
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        content: Any = source.with_suffix(".activations.onnx")
        if onnx_file.is_split(model):
            onnx_file.write_graph(model, content)
        else:
            content = model.SerializeToString()
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def activations(self, sample: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
        """Run one sample and yield the name and values of each float tensor, inputs and outputs among them."""
        values = {name: sample[name] for name in self._inputs}
        values.update(zip(self._outputs, self._session.run(self._outputs, values), strict=True))
        return ((name, value) for name, value in values.items() if value.dtype == "float32")


def quantize_qdq(
    file: Path,
    found: Mapping[str, Range],
    narrow: Sequence[str],
    wide: Sequence[str],
    *,
    unsigned: bool = False,
    mixed: bool = False,
) -> None:
    """Put QDQ nodes around some nodes of a prepared model.

    Args:
        file: The model; it is replaced.
        found: The range of every activation, by name.
        narrow: Names of the nodes that get 8-bit activations.
        wide: Names of the nodes that get 16-bit ones.
        unsigned: Whether 8-bit activations are uint8 and not int8.
        mixed: Whether other nodes have another precision by the user's will. Then the QDQ nodes are ONNX Runtime's
            own: where those of operator set 21 meet float nodes, its optimizer may make a broken graph of them.
    """
    import numpy as np
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorData, TensorsData
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    data = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in found.items()
    }
    model = load_model_with_shape_infer(file)
    eight = QuantType.QUInt8 if unsigned else QuantType.QInt8
    own = {}
    if narrow and wide:
        for nodes in (narrow, wide):
            _join_activations(model.graph, nodes)
        own = _own_types(model.graph, narrow, wide, (eight, QuantType.QInt16))
    quantizer = QDQQuantizer(
        model,
        True,  # per channel
        False,  # reduced range
        QuantType.QInt8,
        eight if narrow else QuantType.QInt16,
        TensorsData(CalibrationMethod.MinMax, data),
        [*narrow, *wide],
        [],
        static_kinds(),
        {
            "TensorQuantOverrides": {name: types for name, types in own.items() if name in found},
            "UseQDQContribOps": mixed and opset(model) >= BROKEN_OPSET,
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    onnx_file.write(quantizer.model.model, file)


def _join_activations(graph: Any, names: Collection[str]) -> None:
    """Let quantization clip instead of an activation between two nodes, as it does where no type is converted."""
    readers = Counter(name for node in graph.node for name in node.input)
    outputs = {value.name for value in graph.output}
    makers = {name: node for node in graph.node for name in node.output}
    for node in [node for node in graph.node if node.op_type in JOINED and node.name in names]:
        maker = makers.get(node.input[0])
        if maker is not None and maker.name in names and readers[node.input[0]] == 1 and node.input[0] not in outputs:
            maker.output[list(maker.output).index(node.input[0])] = node.output[0]
            makers[node.output[0]] = maker
            graph.node.remove(node)


def _own_types(
    graph: Any, narrow: Collection[str], wide: Collection[str], types: tuple[Any, Any]
) -> dict[str, list[dict[str, Any]]]:
    """Say for onnxruntime.quantization what the tensors around 16-bit nodes are stored as.

    A tensor has the type of the node that makes it; nodes of the other width read a conversion.
    """
    eight, sixteen = types
    makers = {name: node.name for node in graph.node for name in node.output}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)
    around = {n for node in graph.node if node.name in wide for n in (*node.input, *node.output) if n}
    own: dict[str, list[dict[str, Any]]] = {}
    for name in sorted(around):
        stays = makers.get(name) in narrow
        others = readers.get(name, set()).intersection(wide if stays else narrow)
        own[name] = [{"quant_type": eight if stays else sixteen}]
        if others:
            own[name][0]["convert"] = {"quant_type": sixteen if stays else eight, "recv_nodes": others}
    return own
