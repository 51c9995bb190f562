"""How a profile is shown to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeferry_runtime.commands.chart_text import windows_chart
from edgeferry_runtime.commands.delegate_option import execution_lines
from edgeferry_runtime.commands.operators_text import operators_text, profile_operators
from edgeferry_runtime.durations import format_duration
from edgeferry_runtime.engines import Execution
from edgeferry_runtime.measurement.sustained import drift_sentence
from edgeferry_runtime.profile import Profile
from edgeferry_runtime.quantities import duration, size


def profile_text(profile: Profile, top: int = 10) -> str:
    """Lay out a profile as a page of aligned facts.

    Args:
        profile: What was measured.
        top: Operators to show at most, where they were measured.
    """
    facts = {
        "artifact": _artifact(profile.artifact),
        "engine": f"{profile.engine['name']} {profile.engine['version']}, {profile.engine['delegate']}",
        "machine": _machine(profile),
        "executes": _executes(profile.execution),
        "": "",
        "load": f"{duration(profile.init_ms)}, first inference {duration(profile.first_inference_ms)}",
        "median": f"{duration(profile.median_ms)}{_interval(profile.median_ms_ci95)}",
        "p5 .. p95": f"{duration(profile.p5_ms)} .. {duration(profile.p95_ms)}",
        "p90, p99": f"{_known(profile.p90_ms)}, {_known(profile.p99_ms)}",
        "mean": f"{duration(profile.mean_ms)}, standard deviation {duration(profile.stddev_ms)}",
        "min .. max": f"{duration(profile.min_ms)} .. {duration(profile.max_ms)}",
        "runs": f"{profile.num_runs} after {profile.warmup_runs} to warm up",
        "memory": _memory(profile),
        "state": _state(profile.state_before, profile.state_after),
    }
    if profile.cooling:
        facts["cooled"] = _waited(profile.cooling, "c", "{:.4g} °C")
    if profile.calming:
        facts["calmed"] = _waited(profile.calming, "load", "load {:.4g}")
    facts["verdict"] = profile.verdict
    width = max(map(len, facts))
    lines = [f"{key.ljust(width)}  {value}".rstrip() for key, value in facts.items()]
    lines += [f"{'warning'.ljust(width)}  {warning}" for warning in profile.warnings]
    if profile.windows:
        lines += ["", windows_chart(profile.windows, duration), "", drift_sentence(profile.windows)]
    if profile.operators:
        lines += ["", operators_text(profile_operators(profile), top)]
    return "\n".join(lines)


def _interval(interval: tuple[float, float] | None) -> str:
    return f"  (95 % sure between {duration(interval[0])} and {duration(interval[1])})" if interval else ""


def _known(milliseconds: float | None) -> str:
    return "unknown" if milliseconds is None else duration(milliseconds)


def _artifact(artifact: Mapping[str, Any]) -> str:
    words = [artifact["name"], artifact["format"], artifact["precision"], size(artifact["size_bytes"])]
    bundle = f"bundle {artifact['bundle'][:12]}" if artifact["bundle"] else None
    signature = f"signature {artifact['signature']}" if "signature" in artifact else None
    return ", ".join(word for word in (*words, bundle, signature) if word)


def _memory(profile: Profile) -> str:
    words = f"{size(profile.rss_bytes)} resident, {size(profile.peak_rss_bytes)} at its peak"
    if profile.baseline_rss_bytes is None:
        return words
    return f"{words}, {size(profile.baseline_rss_bytes)} before the engine"


def _waited(wait: Mapping[str, Any], unit: str, wording: str) -> str:
    start, end, target = (wording.format(wait[f"{key}_{unit}"]) for key in ("start", "end", "target"))
    return f"from {start} to {end} in {format_duration(wait['waited_s'])}, {target} wanted"


def _executes(execution: Mapping[str, Any]) -> str:
    """Tell what really executed, by the same lines as ``ferry run``."""
    if not execution:
        return "unknown"
    return "; ".join(execution_lines(Execution.from_dict(execution)))


def _machine(profile: Profile) -> str:
    facts = profile.machine
    words = [facts.get("board"), facts.get("arch"), f"{facts.get('cores')} cores", f"Python {facts.get('python')}"]
    where = "" if profile.device == "local" else f"{profile.device}: "
    return where + ", ".join(word for word in words if word)


def _state(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Show each reading, and how it changed."""
    units = {"temperature_c": "°C", "frequency_mhz": "MHz", "governor": "", "load1": "load"}
    words = []
    for key, unit in units.items():
        if key in before or key in after:
            old, new = _reading(before.get(key)), _reading(after.get(key))
            words.append(f"{old if old == new else f'{old} -> {new}'} {unit}".strip())
    if "throttled" in after:
        words.append(", ".join(after["throttled"]) or "not throttled")
    return ", ".join(words) or "no sensors"


def _reading(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else str(value if value is not None else "?")
