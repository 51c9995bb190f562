"""A session of ONNX Runtime on one of its execution providers, which leaves to the CPU what it cannot take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeferry_runtime.engines import onnx_providers, vulkan
from edgeferry_runtime.engines.delegate import Delegate
from edgeferry_runtime.engines.execution import Execution
from edgeferry_runtime.engines.onnx_placement import Placement, placement, record
from edgeferry_runtime.engines.onnx_providers import CPU, Provider, not_started
from edgeferry_runtime.errors import EngineError, PartialDelegationError
from edgeferry_runtime.quiet_stderr import capture_output

FATAL = 4
NO_CPU = "session.disable_cpu_ep_fallback"
LEFT_TO_CPU = "assigned to the default CPU EP"
"""What ONNX Runtime says where nodes would be left to the CPU, and must not be."""
NO_ADAPTER = "Failed to get a WebGPU adapter"


def open_accelerated(
    runtime: Any, path: Path, delegate: Delegate, refusals: tuple[type[Exception], ...]
) -> tuple[Any, Execution]:
    """Load a verified ``.onnx`` file with a provider.

    Args:
        runtime: The module.
        path: The artifact.
        delegate: Anything but the plain CPU.
        refusals: What ONNX Runtime raises.

    Returns:
        The session, and what really executes.

    Raises:
        EngineError: If this build has no such provider, it cannot start, or refuses the file.
        PartialDelegationError: If it takes no node, or must take all and does not.
    """
    provider = onnx_providers.choose(delegate, runtime.get_available_providers())
    where: Placement | None = None
    with capture_output() as said:
        found = _session(runtime, path, provider, refusals)
        if not isinstance(found, Exception) and provider.name in found.get_providers():
            where = _placement(runtime, path, found, provider, refusals)
    if isinstance(found, Exception) and not (provider.whole and onnx_providers.has_error(said.text)):
        raise _refusal(path, delegate, provider, found) from found
    if where is None:
        raise not_started(delegate, provider, said.text)
    return found, _execution(path, delegate, provider, where)


def _session(runtime: Any, path: Path, provider: Provider, refusals: tuple[type[Exception], ...]) -> Any:
    """Make a session; a refusal is returned, so that what was said can be read."""
    options = record(runtime.SessionOptions())
    options.log_severity_level = FATAL
    providers: list[Any] = [(provider.name, dict(provider.settings))]
    if provider.whole:
        options.add_session_config_entry(NO_CPU, "1")
    else:
        providers.append(CPU)
    if provider.name.startswith("CUDA") and hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()
    try:
        return runtime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except refusals as error:
        return error


def _placement(
    runtime: Any, path: Path, session: Any, provider: Provider, refusals: tuple[type[Exception], ...]
) -> Placement:
    """Tell what a provider took; nothing where the CPU, in whose session nodes are counted, refuses the model."""
    try:
        return placement(runtime, path, session, provider)
    except refusals:
        return Placement()


def _refusal(path: Path, delegate: Delegate, provider: Provider, error: Exception) -> EngineError:
    said = str(error)
    if LEFT_TO_CPU in said:
        return _partial(path, delegate, "does not take every node", provider)
    if NO_ADAPTER in said:
        return not_started(delegate, provider, said[said.index(NO_ADAPTER) :])
    reason = f"{provider.name} refuses {path.name}: {onnx_providers.first_reason(said)}"
    return EngineError(f"--delegate {delegate}", reason, onnx_providers.ELSEWHERE.format(delegate))


def _partial(path: Path, delegate: Delegate, what: str, provider: Provider) -> PartialDelegationError:
    reason = f"{provider.name} {what} of {path.name}"
    return PartialDelegationError(f"--delegate {delegate}", reason, onnx_providers.ELSEWHERE.format(delegate))


def _execution(path: Path, delegate: Delegate, provider: Provider, where: Placement) -> Execution:
    if where.nodes_delegated == 0 and where.nodes_total:
        raise _partial(path, delegate, f"takes none of the {where.nodes_total} nodes", provider)
    processor = f"{provider.processor} on {vulkan.adapter()}" if provider.moves_layout else provider.processor
    rest = " and the CPU" if where.left_behind else ""
    return Execution(str(delegate), str(delegate), processor + rest, **where._asdict())
