"""PyTorch modules: run them, and lower them without a detour to TFLite (litert-torch) and ONNX (torch.onnx).

A module is wrapped into one of positional tensors in and a tuple of tensors out; the names live beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources import Entry
from edgeferry_converter.sources.finite import check_finite
from edgeferry_converter.sources.tensors import in_order, unique
from edgeferry_converter.sources.versions import versions
from edgeferry_runtime.errors import ConversionError, UnknownNameError
from edgeferry_runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    import torch

Tensors = tuple["torch.Tensor", ...]


@dataclass(frozen=True)
class Call:
    """How to call a module.

    Attributes:
        module: An ``nn.Module`` that is ready for inference.
        examples: One tensor per input.
        structure: The pytree of ``(args, kwargs)`` that the inputs unflatten to.
    """

    module: Any
    examples: Tensors
    structure: Any

    def __call__(self, tensors: Tensors) -> Any:
        """Call the module on flat tensors; its answer has whatever structure it has."""
        from torch.utils import _pytree as pytree

        args, kwargs = pytree.tree_unflatten(list(tensors), self.structure)
        return self.module(*args, **kwargs)

    def answers(self, subject: object, tensors: Tensors) -> dict[str, torch.Tensor]:
        """Call the module without gradients, and name its outputs."""
        import torch

        with torch.no_grad():
            return named_outputs(subject, self(tensors))

    def with_module(self, module: Any) -> Call:
        """Return the same call of another module."""
        return replace(self, module=module)

    def flat(self) -> Any:
        """Return a module of positional tensors in and a tuple of tensors out."""
        import torch

        call = self

        class Flat(torch.nn.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.module = call.module
                self.training = False

            def train(self, mode: bool = True) -> Any:
                """Stay as the module is: ready for inference. Exported programs refuse to be asked."""
                return self

            def forward(self, *tensors: Any) -> Any:
                return tuple(named_outputs("module", call(tensors)).values())

        return Flat()


def named_outputs(subject: object, answer: Any) -> dict[str, torch.Tensor]:
    """Name what a module answered: by its keys, or else ``output_0``, ``output_1`` and so on.

    What is nested is named by its path: the states of an LSTM are ``output_1_0`` and ``output_1_1``.

    Raises:
        ConversionError: If anything in it is not a tensor.
    """
    pairs = list(_leaves(subject, "", answer if isinstance(answer, Mapping | list | tuple) else [answer]))
    return dict(zip(unique([name for name, _ in pairs]), (tensor for _, tensor in pairs), strict=True))


def _leaves(subject: object, name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(subject, f"{name}_{key}" if name else str(key), part)
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from _leaves(subject, f"{name or 'output'}_{i}", part)
    else:
        reason = f"its {name} is {type(value).__name__}, not a tensor"
        raise ConversionError(subject, reason, "return tensors only, in lists, tuples or dicts as you like")


def dtype_name(dtype: torch.dtype) -> str:
    """Return the NumPy name of a PyTorch dtype."""
    return str(dtype).removeprefix("torch.")


class TorchSource:
    """A PyTorch module as a source; see `edgeferry_converter.sources.Source`.

    In TFLite every dynamic dimension is pinned: the batch to 1, others to the size that the examples have.
    """

    lowers_to: tuple[str, ...] = ("tflite", "onnx")

    def __init__(
        self, origin: tuple[Path, str], call: Call, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        self.path, self.format = origin
        self.tools: Mapping[str, str] = versions("torch")
        self.framework = f"torch {self.tools['torch']}"
        self.inputs, self.outputs = inputs, outputs
        self.notes: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.signatures: Mapping[str, Entry] = {}
        check_finite(self.path, ((name, p.numpy(force=True)) for name, p in _plain(call.module.named_parameters())))
        buffers = _plain(call.module.named_buffers())
        check_finite(self.path, ((name, b.numpy(force=True)) for name, b in buffers), masks=True)
        self.call = call

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Execute once."""
        import torch

        arrays = in_order(self.path, self.inputs, feeds)
        with foreign(self.path, "the module failed"):
            answers = self.call.answers(self.path, tuple(torch.tensor(array) for array in arrays))
            return {name: tensor.numpy(force=True) for name, tensor in answers.items()}

    def lower(self, to: str, path: Path) -> None:
        """Write the float artifact."""
        writers: Mapping[str, Callable[[], bytes]] = {"tflite": self._tflite, "onnx": self._onnx}
        if to not in writers:
            raise UnknownNameError("--to", to, writers)
        path.write_bytes(writers[to]())

    def _tflite(self) -> bytes:
        import torch

        from edgeferry_converter.sources import signature

        litert_torch = require(self.path, "torch", "litert_torch")
        self.tools = {**self.tools, **versions("litert-torch")}
        with foreign(self.path, "litert-torch could not convert it"), torch.no_grad():
            edge = litert_torch.convert(self.call.flat(), self._examples(batch=1), enable_x64=self._wide())
            model: bytes = edge.model_content()
        inputs = {f"args_{i}": t.name for i, t in enumerate(self.inputs)}
        outputs = {f"output_{i}": t.name for i, t in enumerate(self.outputs)}
        return signature.rename(model, inputs, outputs)

    def _onnx(self) -> bytes:
        import torch

        from edgeferry_converter.sources import onnx_graph

        require(self.path, "torch", "onnxscript")
        self.tools = {**self.tools, **versions("onnxscript", "onnx")}
        dynamic = tuple(
            {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(t.shape) if size < 0} for t in self.inputs
        )
        fix = "give each size with --shape, or run again with -v"
        with foreign(self.path, "torch.onnx could not export it", fix), torch.no_grad():
            program = torch.onnx.export(
                self.call.flat(),
                self._examples(batch=2),
                dynamo=True,
                verbose=False,
                input_names=[t.name for t in self.inputs],
                output_names=[t.name for t in self.outputs],
                dynamic_shapes=(dynamic,),
            )
        return onnx_graph.finish(self.path, program.model_proto)

    def _wide(self) -> bool:
        """Tell whether a 64-bit type is part of the interface, which litert-torch would narrow to 32 bits."""
        return any(t.dtype in ("int64", "float64") for t in (*self.inputs, *self.outputs))

    def _examples(self, batch: int) -> Tensors:
        """Return the examples with a dynamic batch set to `batch`; the exporter takes 0 and 1 for constants."""
        pairs = zip(self.call.examples, self.inputs, strict=True)
        return tuple(resize_batch(e, batch) if t.shape[:1] == (-1,) else e for e, t in pairs)


def _plain(tensors: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Leave out what NumPy has no dtype for."""
    import torch

    return ((name, t) for name, t in tensors if t.dtype in (torch.float16, torch.float32, torch.float64))


def resize_batch(example: torch.Tensor, batch: int) -> torch.Tensor:
    """Repeat the first sample of an example."""
    return example[:1].repeat(batch, *(1 for _ in example.shape[1:]))
