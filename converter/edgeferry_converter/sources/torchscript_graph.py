"""TorchScript's graph as a module of plain operator calls, which torch.export can trace.

PyTorch 2.13 exports no TorchScript any more. Its graph, frozen and inlined, is a list of operators that PyTorch also
has as ``torch.ops``; calling them one by one computes the same. What remains besides are constants, lists, tuples,
arithmetic on sizes, and branches over sizes, which are decided while tracing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeferry_converter.quiet import foreign
from edgeferry_runtime.errors import ConversionError

Values = dict[str, Any]

STATIC = "give each size with --shape, or trace the module for these sizes: torch.jit.trace(module.eval(), inputs)"

TENSOR = object()
"""Stands for an input that flows in."""

BUILDERS: Mapping[str, Callable[..., Any]] = {
    "prim::ListConstruct": lambda *parts: list(parts),
    "prim::TupleConstruct": lambda *parts: tuple(parts),
    "prim::DictConstruct": lambda *parts: dict(zip(parts[::2], parts[1::2], strict=True)),
    "prim::NumToTensor": lambda value: value,
    "prim::unchecked_cast": lambda value: value,
    "prim::unchecked_unwrap_optional": lambda value: value,
    "prim::dtype": lambda tensor: tensor.dtype,
    "prim::device": lambda tensor: tensor.device,
    "prim::max": max,
    "prim::min": min,
    "aten::size": lambda tensor, *axis: tensor.shape[axis[0]] if axis else list(tensor.shape),
    "aten::dim": lambda tensor: tensor.dim(),
    "aten::len": len,
    "aten::__getitem__": operator.getitem,
    "aten::__not__": operator.not_,
    "aten::__is__": operator.is_,
    "aten::__isnot__": operator.is_not,
    "aten::__contains__": operator.contains,
    "aten::warn": lambda *said: None,
    "aten::floordiv": operator.floordiv,
}
"""What is no operator on tensors, or is one on sizes too."""

NUMBERS: Mapping[str, Callable[..., Any]] = {
    **{"aten::Int": lambda value: value, "aten::Float": float, "aten::Bool": bool, "aten::item": lambda value: value},
    **{f"aten::{kind}Implicit": lambda value: value for kind in ("Scalar", "Int", "Float")},
}
"""What makes a number of a size, which tracing took for a tensor."""

ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    **{f"aten::{name}": getattr(operator, name) for name in ("add", "sub", "mul", "eq", "ne", "lt", "le", "gt", "ge")},
    **{"aten::neg": operator.neg, "aten::div": operator.truediv, "aten::remainder": operator.mod},
}
"""What means arithmetic where no tensor takes part."""


def Interpreted(path: Path, script: Any, constants: Mapping[str, Any]) -> Any:  # noqa: N802 (it is a module's constructor to its callers)
    """Make an ``nn.Module`` of a TorchScript module.

    Args:
        path: The file, for errors.
        script: A loaded ``torch.jit.ScriptModule`` in evaluation mode; it stays as it is.
        constants: The values of parameters of ``forward`` that are no tensors.

    Raises:
        ConversionError: If it changes its own state, or PyTorch cannot freeze it.
    """
    import torch

    with foreign(path, "torch.jit could not freeze it", STATIC):
        frozen = torch.jit.freeze(script)
        torch._C._jit_pass_inline(frozen.graph)
        torch._C._jit_pass_lower_all_tuples(frozen.graph)
    stateful = {node.s("name") for node in frozen.graph.findAllNodes("prim::SetAttr")}
    if stateful:
        reason = f"keeps state between calls (it sets {', '.join(sorted(stateful))})"
        parts = ", ".join(name for name, _ in script.named_children())
        other = f", or choose a part that keeps none: --submodule, of {parts}" if parts else ""
        raise ConversionError(path, reason, f"let forward take the state and return the new one{other}")
    given = [_argument(argument, constants) for argument in script.forward.schema.arguments[1:]]

    class Module(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.training = False
            for i, tensor in enumerate(_tensors(frozen.graph)):
                self.register_buffer(f"weight_{i}", tensor)

        def forward(self, *tensors: Any) -> Any:
            weights = iter([getattr(self, f"weight_{i}") for i in range(len(list(self.buffers())))])
            values = {
                name: next(weights) if isinstance(value, torch.Tensor) else value
                for name, value in _constants(frozen.graph).items()
            }
            names = [value.debugName() for value in frozen.graph.inputs()][1:]
            flowing = iter(tensors)
            values |= {n: next(flowing) if g is TENSOR else g for n, g in zip(names, given, strict=True)}
            answers = _run(path, frozen.graph, values)
            return answers[0] if len(answers) == 1 else tuple(answers)

    return Module()


def _argument(argument: Any, constants: Mapping[str, Any]) -> Any:
    """Return the value of a parameter of ``forward``, or that it is a tensor, which flows in."""
    if str(argument.type) == "Tensor":
        return TENSOR
    return constants.get(argument.name, argument.default_value)


def _constants(graph: Any) -> Values:
    nodes = graph.findAllNodes("prim::Constant")
    return {node.outputsAt(0).debugName(): _number(node.output().toIValue()) for node in nodes}


def _number(value: Any) -> Any:
    """Make a number of a constant that counts something, which tracing keeps as a tensor."""
    whole = _is_tensor(value) and value.dim() == 0 and not value.dtype.is_floating_point
    return value.item() if whole else value


def _tensors(graph: Any) -> list[Any]:
    import torch

    return [value.detach() for value in _constants(graph).values() if isinstance(value, torch.Tensor)]


def _run(path: Path, block: Any, values: Values) -> list[Any]:
    """Execute a graph or a block of one; return what it returns."""
    for node in block.nodes():
        if node.kind() == "prim::Constant":
            continue
        results = _execute(path, node, [values[value.debugName()] for value in node.inputs()], values)
        outputs = [value.debugName() for value in node.outputs()]
        values.update(zip(outputs, results if len(outputs) != 1 else [results], strict=len(outputs) > 1))
    return [values[value.debugName()] for value in block.outputs()]


def _execute(path: Path, node: Any, arguments: Sequence[Any], values: Values) -> Any:
    kind = node.kind()
    if kind == "prim::If":
        return _branch(path, node, bool(arguments[0]), values)
    if kind in ("prim::ListUnpack", "prim::TupleUnpack"):
        parts = list(arguments[0])
        return parts[0] if node.outputsSize() == 1 else parts
    if kind in NUMBERS:
        if _is_tensor(arguments[0]):
            raise ConversionError(path, f"decides by the value of a tensor ({kind}{_where(node)})", STATIC)
        return NUMBERS[kind](arguments[0])
    if kind in BUILDERS:
        return BUILDERS[kind](*arguments)
    if kind in ARITHMETIC and not any(_is_tensor(argument) for argument in arguments):
        return ARITHMETIC[kind](*arguments[: 1 if kind == "aten::neg" else 2])
    function, keywords = _operator(path, node)
    plain = len(arguments) - len(keywords)
    return function(*arguments[:plain], **dict(zip(keywords, arguments[plain:], strict=True)))


def _branch(path: Path, node: Any, condition: bool, values: Values) -> Any:
    chosen = list(node.blocks())[0 if condition else 1]
    results = _run(path, chosen, values)
    return results[0] if len(results) == 1 else results


def _operator(path: Path, node: Any) -> tuple[Any, list[str]]:
    """Return the function of ``torch.ops`` that a node calls, and which of its arguments it takes by keyword."""
    import torch

    namespace, _, name = node.kind().partition("::")
    schema = node.schema()
    if node.kind() == "aten::_convolution":  # what tracing writes; exporters know the public one, without the flags
        return (lambda *arguments: torch.ops.aten.convolution.default(*arguments[:9])), []
    if namespace == "prim" or schema == "(no schema)":
        raise ConversionError(path, f"uses {node.kind()}, which cannot be lowered{_where(node)}", STATIC)
    with foreign(path, f"uses {node.kind()}, which this PyTorch does not have{_where(node)}", STATIC):
        parsed = torch._C.parse_schema(schema)
        function = getattr(getattr(getattr(torch.ops, namespace), name), parsed.overload_name or "default")
    return function, [argument.name for argument in parsed.arguments if argument.kwarg_only]


def _where(node: Any) -> str:
    """Say where in the source's code a node came from, where TorchScript kept that."""
    lines = [line.strip() for line in str(node.sourceRange()).splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("File ")), lines[0] if lines else "")
    return f", at {said[:120]}" if said else ""


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)
