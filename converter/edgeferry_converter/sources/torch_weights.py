"""Weights of a PyTorch module: read without executing code, found in what surrounds them, and fitted."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources.detection import AGAIN, is_pickle
from edgeferry_runtime.errors import (
    ArtifactError,
    CorruptFileError,
    MissingFileError,
    UnknownFormatError,
    UnknownNameError,
    UnsafeFileError,
    UsageError,
)

if TYPE_CHECKING:
    import torch

State = dict[str, "torch.Tensor"]

PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""

SAVE_STATE = "save only the weights: torch.save(module.state_dict(), FILE), or safetensors"


@dataclass(frozen=True)
class Weights:
    """A state dict, and where it was found.

    Attributes:
        path: The file.
        state: Tensors by the names that the module has for them.
        key: Where it lies in the checkpoint, levels joined by dots; empty where it is the whole file.
        prefix: What was taken away before every name; empty where nothing.
    """

    path: Path
    state: State
    key: str = ""
    prefix: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what was chosen."""
        key = f"the weights are those below the key {self.key!r} of {self.path.name}"
        prefix = f"{self.prefix!r} was taken away before the name of every weight"
        return (*((key,) if self.key else ()), *((prefix,) if self.prefix else ()))


def read_state(path: Path, key: str | None = None) -> State:
    """Read a state dict; see `read_weights`."""
    return read_weights(path, key).state


def read_weights(path: Path, key: str | None = None) -> Weights:
    """Read a state dict from ``.pt``, ``.pth``, ``.th`` or ``.safetensors``, told apart by content.

    A ``module.`` before every name is taken away.

    Args:
        path: The file.
        key: Where in the checkpoint it lies, levels joined by dots; None finds it where there is one only.

    Raises:
        MissingFileError: If there is no such file.
        UnsafeFileError: If loading it would execute code.
        CorruptFileError: If it is truncated.
        UnknownFormatError: If it is no weights file, or holds no state dict, or several and no key was given.
        UnknownNameError: If there is no state dict below the key.
    """
    if not path.is_file():
        raise MissingFileError(path, "no such weights file", "check --weights")
    with path.open("rb") as stream:
        head = stream.read(16)
    if head.startswith(b"PK\x03\x04") or is_pickle(head):
        found = _choose(path, dict(_states("", _load_pickle(path))), key)
    elif head[8:9] == b"{":
        found = _choose(path, {"": _load_safetensors(path)}, key)
    else:
        raise UnknownFormatError(path, "holds neither PyTorch nor safetensors weights", SAVE_STATE)
    prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in found[1])), "")
    state = {name.removeprefix(prefix): tensor for name, tensor in found[1].items()}
    return Weights(path, state, found[0], prefix)


def _load_pickle(path: Path) -> Any:
    import torch

    with foreign(path, "is truncated or damaged", AGAIN, CorruptFileError):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError) as error:
            words = str(error).lower()
            if "truncated" in words or "zip archive" in words or "ran out of" in words:
                raise
            reason = "is a pickle of more than weights: loading it would execute code"
            raise UnsafeFileError(path, reason, SAVE_STATE) from error


def _load_safetensors(path: Path) -> State:
    library = require(path, "torch", "safetensors.torch")
    with foreign(path, "is truncated or damaged", AGAIN, CorruptFileError):
        state: State = library.load_file(path)
        return state


def _states(where: str, value: Any, depth: int = 4) -> Iterator[tuple[str, State]]:
    """Yield every state dict of a checkpoint with the keys that lead to it."""
    if _is_state(value):
        yield where, dict(value)
    elif isinstance(value, Mapping) and depth:
        for key, part in value.items():
            if isinstance(key, str):
                yield from _states(f"{where}.{key}" if where else key, part, depth - 1)


def _choose(path: Path, states: Mapping[str, State], key: str | None) -> tuple[str, State]:
    """Return the state dict below the key, or the only one."""
    if key is not None and key not in states:
        if set(states) == {""}:
            raise UsageError("--weights-key", f"{path.name} holds the weights themselves, below no key", "leave it out")
        raise UnknownNameError("--weights-key", key, states or ["none: it holds no state dict"])
    if key is not None or len(states) == 1:
        chosen = key if key is not None else next(iter(states))
        return chosen, states[chosen]
    if not states:
        raise UnknownFormatError(path, "holds no state dict", SAVE_STATE)
    fix = f"name the one to take: --weights-key {next(iter(states))}"
    raise UnknownFormatError(path, f"holds several state dicts: {', '.join(states)}", fix)


def _is_state(value: Any) -> bool:
    import torch

    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())
    )


def fit(path: Path, module: torch.nn.Module, state: State) -> None:
    """Load a state dict into a module, every name and shape of which must agree.

    Raises:
        ArtifactError: Naming some of those that do not.
    """
    own = module.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    problems = [
        *_some("lacks", own.keys() - state.keys() - counters),
        *_some("has unknown", state.keys() - own.keys()),
        *_some("has other shapes for", (n for n in own.keys() & state.keys() if own[n].shape != state[n].shape)),
    ]
    if problems:
        raise ArtifactError(
            path, f"does not fit the module: it {' and '.join(problems)}", "give the weights of this module"
        )
    with foreign(path, "does not fit the module", error=ArtifactError):
        module.load_state_dict(state, strict=False)


def _some(problem: str, names: Iterable[str]) -> list[str]:
    listed = sorted(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return [f"{problem} {', '.join(listed[:3])}{more}"] if listed else []
