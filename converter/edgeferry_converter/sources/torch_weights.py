"""Weights of a PyTorch module: read without executing code, found in what surrounds them, and fitted."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources.detection import AGAIN, is_pickle
from edgeferry_runtime.errors import (
    ArtifactError,
    CorruptFileError,
    MissingFileError,
    UnknownFormatError,
    UnsafeFileError,
)

if TYPE_CHECKING:
    import torch

State = dict[str, "torch.Tensor"]

PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""

SAVE_STATE = "save only the weights: torch.save(module.state_dict(), FILE), or safetensors"


def read_state(path: Path) -> State:
    """Read a state dict from ``.pt``, ``.pth``, ``.th`` or ``.safetensors``, told apart by content.

    A state dict below one key of a checkpoint is found, and a ``module.`` before every name is taken away.

    Raises:
        MissingFileError: If there is no such file.
        UnsafeFileError: If loading it would execute code.
        CorruptFileError: If it is truncated.
        UnknownFormatError: If it is no weights file, or holds no state dict, or several.
    """
    if not path.is_file():
        raise MissingFileError(path, "no such weights file", "check --weights")
    with path.open("rb") as stream:
        head = stream.read(16)
    if head.startswith(b"PK\x03\x04") or is_pickle(head):
        return _without_prefix(_find_state(path, _load_pickle(path)))
    if head[8:9] == b"{":
        return _without_prefix(_load_safetensors(path))
    raise UnknownFormatError(path, "holds neither PyTorch nor safetensors weights", SAVE_STATE)


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


def _find_state(path: Path, loaded: Any) -> State:
    if _is_state(loaded):
        return dict(loaded)
    entries = loaded.items() if isinstance(loaded, Mapping) else ()
    found = {str(key): value for key, value in entries if _is_state(value)}
    if len(found) == 1:
        return dict(next(iter(found.values())))
    what = f"holds several state dicts: {', '.join(found)}" if found else "holds no state dict"
    raise UnknownFormatError(path, what, SAVE_STATE)


def _is_state(value: Any) -> bool:
    import torch

    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())
    )


def _without_prefix(state: State) -> State:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


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
