"""A module of the same layers, as large as stored values say."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeferry_converter.compress.on_torch.sizes import heads_of, put, sizes_of
from edgeferry_converter.quiet import foreign, summary
from edgeferry_runtime.errors import ConversionError
from edgeferry_runtime.tensors import Array

if TYPE_CHECKING:
    from edgeferry_converter.compress.on_torch.network import TorchNetwork

FIX = "let forward take its sizes from the tensors or from attributes of the module, or skip the layer"


def resize(network: TorchNetwork, state: Mapping[str, Array]) -> TorchNetwork:
    """Return a copy of the network whose parameters and sizes follow the arrays; it is run on the examples.

    Sizes are the integers that PyTorch's layers keep (``in_channels``, ``num_features`` and so on), the numbers of
    heads of attention modules, and, where the module does not run otherwise, integer attributes around a layer that
    were equal to what has become smaller.

    Args:
        network: Stays as it is.
        state: Every value of ``state_dict``, each of its own shape or smaller.

    Raises:
        ConversionError: Naming the layer in which the smaller module fails, and the reason.
    """
    _check_names(network, state)
    failure: ConversionError | None = None
    for numbers in _candidates(network.module, state):
        found = _made(network, state, numbers)
        try:
            _check_run(network, found)
            return found
        except ConversionError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _candidates(module: Any, state: Mapping[str, Array]) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield the attributes to change, by module: first only those whose meaning is known."""
    sizes = sizes_of(module, state)
    heads, others = heads_of(module, sizes, state)
    yield _joined(sizes, heads)
    if any(others.values()):
        yield _joined(sizes, heads, others)
        yield _joined(sizes, others)


def _joined(*tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for table in reversed(tables):
        for name, numbers in table.items():
            found[name] = {**found.get(name, {}), **numbers}
    return found


def _made(network: TorchNetwork, state: Mapping[str, Array], numbers: Mapping[str, Mapping[str, Any]]) -> TorchNetwork:
    with foreign(network.name, "the module could not be copied"):
        module = copy.deepcopy(network.module)
        put(module, state, numbers)
    found = network.with_module(module)
    found.numbers = _joined(numbers, network.numbers)
    return found


def _check_names(network: TorchNetwork, state: Mapping[str, Array]) -> None:
    own = network.module.state_dict()
    for name in [*(own.keys() - state.keys()), *(state.keys() - own.keys())]:
        problem = "is missing" if name in own else "is none of the module's"
        raise ConversionError(network.name, f"{name!r} {problem}", "give every value that the network's state names")
    for name, tensor in own.items():
        shape = np.shape(state[name])
        if len(shape) != tensor.ndim or any(size < 1 for size in shape):
            reason = f"{name!r} has shape {list(shape)}, which {list(tensor.shape)} cannot become"
            raise ConversionError(network.name, reason, "leave at least one channel on every axis")


def _check_run(network: TorchNetwork, found: TorchNetwork) -> None:
    """Run on the examples.

    Raises:
        ConversionError: If that fails, or answers of another shape come out.
    """
    inside = _Inside(found.module)
    try:
        with inside, foreign(network.name, "it did not run"):
            found.module.eval()
            answers = found.call.answers(network.name, found.examples())
            expected = network.call.answers(network.name, network.examples())
    except ConversionError as error:
        said = summary(error.__cause__) if error.__cause__ is not None else error.reason
        where = f"its layer {inside.name!r} does not run" if inside.name else "its forward does not run"
        raise ConversionError(network.name, f"{where} with the smaller sizes ({said})", FIX) from error
    for name, answer in answers.items():
        if answer.shape != expected[name].shape:
            reason = f"{name} has shape {list(answer.shape)} with the smaller sizes, not {list(expected[name].shape)}"
            raise ConversionError(network.name, reason, FIX)


class _Inside:
    """Knows in which module forward is, or was when it failed."""

    def __init__(self, module: Any) -> None:
        self._module, self._stack, self._hooks = module, [""], list[Any]()

    @property
    def name(self) -> str:
        """The module's name; empty for the whole."""
        return self._stack[-1]

    def __enter__(self) -> None:
        for name, part in self._module.named_modules():
            if name:
                self._hooks.append(part.register_forward_pre_hook(lambda *_, name=name: self._stack.append(name)))
                self._hooks.append(part.register_forward_hook(lambda *_: self._leave()))

    def _leave(self) -> None:
        self._stack.pop()

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
