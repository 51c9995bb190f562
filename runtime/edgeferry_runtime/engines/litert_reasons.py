"""What LiteRT's accelerators say on C's stderr, turned into evidence and reasons.

Python is told neither: of a missing driver it sees a bare RuntimeError, and `is_fully_accelerated` is true of a model
that runs on the CPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgeferry_runtime.engines.execution import LeftBehind

ADAPTER = re.compile(r"Selected adapter: (?P<name>.+), arch=.*\bbackend=(?P<backend>\w+), adapterType=(?P<type>.+)")
UNSUPPORTED = re.compile(r"^([A-Z][A-Z0-9_]*): (.+?)\.?$")
SHARE = re.compile(r"^(\d+) operations will run on the GPU, and the remaining (\d+) operations will run on the CPU")
NO_LIBRARY = re.compile(r"Could not load shared library \S*?([^/\s]+): (.+?)\.?$", re.MULTILINE)
VULKAN = re.compile(r"^(?:Warning: )?(.*(?:[Vv]ulkan|vkCreateInstance).*?)\.?$", re.MULTILINE)


def adapter(said: str) -> str | None:
    """Name the GPU that WebGPU chose, in words; None where it chose none."""
    found = ADAPTER.search(said)
    if found is None:
        return None
    software = ", software on the CPU" if "CPU" in found["type"] else ""
    return f"{found['name']}, WebGPU on {found['backend']}{software}"


def unsupported(said: str) -> dict[str, str]:
    """Return the operators that the GPU does not take, and why."""
    _, _, rest = said.partition("Following operations are not supported by GPU delegate:\n")
    lines = (UNSUPPORTED.match(line) for line in rest.splitlines())
    return {found[1]: found[2] for found in _leading(lines)}


def _leading(matches: Iterable[re.Match[str] | None]) -> Iterable[re.Match[str]]:
    for found in matches:
        if found is None:
            return
        yield found


def gpu_share(said: str) -> tuple[int, int] | None:
    """Return how many nodes run on the GPU and how many do not; None where LiteRT does not say."""
    lines = (SHARE.match(line) for line in said.splitlines())
    return next(((int(found[1]), int(found[2])) for found in lines if found), None)


def is_partial(said: str, error: str) -> bool:
    """Tell whether an accelerator refused because it takes some of the nodes only."""
    return bool(unsupported(said)) or ("Some ops are not accelerated" in error and npu_found(said))


def npu_found(said: str) -> bool:
    """Tell whether LiteRT did not complain that it found no NPU."""
    return "No compiler plugin found" not in said and not NO_LIBRARY.search(said)


def left_behind(operators: Iterable[str], reasons: dict[str, str]) -> tuple[LeftBehind, ...]:
    """Count the nodes whose operator the GPU does not take.

    Args:
        operators: Of each node of the graph.
        reasons: What `unsupported` gave.
    """
    names = list(operators)
    return tuple(LeftBehind(name, names.count(name), why) for name, why in reasons.items() if name in names)


def gpu_refusal(said: str, error: str) -> str:
    """Say why LiteRT has no GPU for a model."""
    reasons, share = unsupported(said), gpu_share(said)
    if reasons:
        taken = f"takes {share[0]} of {sum(share)} nodes, and all are needed" if share else "does not take every node"
        return f"{adapter(said) or 'the GPU'} {taken}; {', '.join(f'{k}: {v}' for k, v in reasons.items())}"
    if "No adapters found" in said or "Couldn't load Vulkan" in said:
        why = [found[1].strip() for found in VULKAN.finditer(said)]
        return f"LiteRT finds no GPU{f' ({why[0]})' if why else ''}"
    return f"LiteRT refuses it: {_first_line(error)}"


def npu_refusal(said: str, error: str) -> str:
    """Say why LiteRT has no NPU for a model."""
    missing = [f"{found[1]}: {found[2]}" for found in NO_LIBRARY.finditer(said)]
    if not npu_found(said):
        return f"LiteRT finds no NPU{f' ({missing[0]})' if missing else ''}"
    return f"LiteRT refuses it: {_first_line(error)}"


def _first_line(error: str) -> str:
    """Return what an error says behind the place in LiteRT's sources."""
    lines = [line.strip(" └") for line in error.splitlines()]
    plain = [line for line in lines if line and not re.fullmatch(r"ERROR: \[\S+\]", line)]
    return (plain or ["it does not say why"])[0][:300]
