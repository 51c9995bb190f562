"""TensorFlow functions: run them, and lower them to TFLite (TensorFlow's converter) and ONNX (tf2onnx).

Inside, tensors are called in_0, in_1 … and out_0, out_1 …, so that no name of a source can collide with another
or be rewritten by TensorFlow; the artifact then gets the source's names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources import Entry
from edgeferry_converter.sources.tensors import in_order, pin_batch
from edgeferry_converter.sources.versions import versions
from edgeferry_runtime.errors import ConversionError, UnknownNameError
from edgeferry_runtime.scratch import scratch
from edgeferry_runtime.tensors import Array, TensorSpec

OPSET = 18
"""The newest ONNX operator set that tf2onnx writes."""


@dataclass(frozen=True)
class Call:
    """How to call a TensorFlow model.

    Attributes:
        function: Takes one tensor per input in order, returns one per output in order.
        owner: What must live on beside the variables, such as lookup tables; None for nothing.
    """

    function: Callable[..., Sequence[Any]]
    owner: Any = None

    def traced(self, inputs: Sequence[TensorSpec], *, pinned: bool) -> Any:
        """Return a ``tf.function`` of our inner names, with the batch pinned to 1 or left as declared."""
        import tensorflow as tf

        shapes = [pin_batch(t.shape) if pinned else t.shape for t in inputs]
        signature = [
            tf.TensorSpec([None if d < 0 else d for d in shape], t.dtype, name=f"in_{i}")
            for i, (t, shape) in enumerate(zip(inputs, shapes, strict=True))
        ]

        def serve(*tensors: Any) -> dict[str, Any]:
            return {f"out_{i}": tf.identity(t) for i, t in enumerate(self.function(*tensors))}

        return tf.function(serve, input_signature=signature, autograph=False)


class Traced:
    """A TensorFlow function that can be run and lowered; see `edgeferry_converter.sources.Entry`.

    Args:
        path: What it was read from, for errors.
        call: How to call it.
        inputs: What it takes.
        outputs: The names of what it gives, in order.

    Attributes:
        function: As a ``tf.function`` of our inner names, whose batch is as declared.
    """

    def __init__(self, path: Path, call: Call, inputs: tuple[TensorSpec, ...], outputs: Sequence[str]) -> None:
        self.path, self.call, self.inputs = path, call, inputs
        with foreign(self.path, "TensorFlow could not trace it", "check --shape, or run again with -v"):
            self.function = call.traced(inputs, pinned=False)
            answers = self.function.get_concrete_function().structured_outputs
            specs = [answers[f"out_{i}"] for i in range(len(answers))]
            self.outputs = tuple(
                TensorSpec(name, tuple(-1 if d is None else d for d in spec.shape), spec.dtype.name)
                for name, spec in zip(outputs, specs, strict=True)
            )

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Execute once."""
        import tensorflow as tf

        arrays = in_order(self.path, self.inputs, feeds)
        with foreign(self.path, "TensorFlow failed to run it"):
            tensors = [tf.constant(a, t.dtype) for a, t in zip(arrays, self.inputs, strict=True)]
            answers = self.function(*tensors)
            return {t.name: answers[f"out_{i}"].numpy() for i, t in enumerate(self.outputs)}

    def names(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the names of inputs and outputs by our inner ones."""
        return (
            {f"in_{i}": t.name for i, t in enumerate(self.inputs)},
            {f"out_{i}": t.name for i, t in enumerate(self.outputs)},
        )

    def captured(self) -> dict[str, Array]:
        """Return the constants that the function took from outside, which tf2onnx makes inputs of."""
        import tensorflow as tf

        captures = self.function.get_concrete_function(*self.function.input_signature).graph.captures
        return {inner.name: outer.numpy() for outer, inner in captures if outer.dtype not in (tf.resource, tf.variant)}


class TensorFlowSource:
    """A TensorFlow model as a source; see `edgeferry_converter.sources.Source`.

    Args:
        origin: The path and the format that it was read from.
        framework: The distribution that loaded it, such as ``keras``.
        entries: What becomes of it, by the name of its signature, the primary one first.
    """

    lowers_to: tuple[str, ...] = ("tflite", "onnx")

    def __init__(self, origin: tuple[Path, str], framework: str, entries: Mapping[str, Traced]) -> None:
        self.path, self.format = origin
        self.tools: Mapping[str, str] = versions("tensorflow", framework)
        self.framework = f"{framework} {self.tools[framework]}"
        self.notes: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self._entries = entries
        self._primary = next(iter(entries.values()))
        self.inputs, self.outputs = self._primary.inputs, self._primary.outputs
        self.signatures: Mapping[str, Entry] = entries if len(entries) > 1 else {}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Execute once."""
        return self._primary.run(feeds)

    def lower(self, to: str, path: Path) -> None:
        """Write the float artifact."""
        writers: Mapping[str, Callable[[], bytes]] = {"tflite": self._tflite, "onnx": self._onnx}
        if to not in writers:
            raise UnknownNameError("--to", to, writers)
        path.write_bytes(writers[to]())

    def _tflite(self) -> bytes:
        import tensorflow as tf

        from edgeferry_converter.sources import signature

        with (
            scratch() as folder,
            foreign(self.path, "TensorFlow's converter refused it"),
        ):
            keys = self._save(str(folder))
            model = self._convert(tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=list(keys)))
        renamings = {key: signature.Renaming(name, *self._entries[name].names()) for key, name in keys.items()}
        return signature.rename_all(model, renamings)

    def _convert(self, converter: Any) -> bytes:
        from tensorflow.lite.python.convert_phase import ConverterError

        try:
            return bytes(converter.convert())
        except ConverterError as error:
            missing = ", ".join(sorted(set(_missing(str(error)))))
            if not missing:
                raise
            reason = f"TFLite has no operator for {missing}"
            fix = "take --to onnx, or replace it in the model"
            if self.signatures:
                fix = f"choose the signatures that TFLite can run: --signature {next(iter(self.signatures))}"
            raise ConversionError(self.path, reason, fix) from error

    def _save(self, folder: str) -> dict[str, str]:
        """Save the functions with exactly the variables that they use, which they share.

        A Keras 3 model as the owner makes TensorFlow's converter drop the weights without a word.

        Returns:
            The name of each signature by the inner one under which it was saved.
        """
        import tensorflow as tf

        module = tf.Module()
        traced = [entry.call.traced(entry.inputs, pinned=True) for entry in self._entries.values()]
        keys = [f"signature_{i}" for i in range(len(traced))]
        variables = (v for function in traced for v in function.get_concrete_function().graph.variables)
        module.functions = traced
        module.kept = list({id(variable): variable for variable in variables}.values())
        module.owner = self._primary.call.owner
        tf.saved_model.save(module, folder, signatures=dict(zip(keys, traced, strict=True)))
        return dict(zip(keys, self._entries, strict=True))

    def _onnx(self) -> bytes:
        from edgeferry_converter.sources import onnx_graph, onnx_names

        tf2onnx = require(self.path, "keras", "tf2onnx")
        self.tools = {**self.tools, **versions("tf2onnx", "onnx")}
        with foreign(self.path, "tf2onnx could not convert it"):
            function = self._primary.function
            model, _ = tf2onnx.convert.from_function(function, function.input_signature, opset=OPSET)
            onnx_graph.hold(model, self._primary.captured())
        return onnx_graph.finish(self.path, onnx_names.canonical(onnx_graph.rename(model, *self._primary.names())))


def _missing(said: str) -> Iterator[str]:
    """Find in a message of TensorFlow's converter each operator that TFLite lacks, and the layer that it came from."""
    for line in said.splitlines():
        operator = re.search(r"'(tf\.\w+)' op", line)
        layer = re.search(r'"([^"@]+)/[^"/@]+@', line)
        if operator:
            yield f"{operator[1]} (in {layer[1]})" if layer else operator[1]
