"""How a series of measurements is shown to people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgeferry_runtime.benchmark import compare_profiles, has_samples, pool, pool_warnings
from edgeferry_runtime.commands.operators_text import operators_text, profile_operators
from edgeferry_runtime.commands.output import table
from edgeferry_runtime.measurement.compare import ONE_EACH
from edgeferry_runtime.measurement.sustained import drift_sentence

if TYPE_CHECKING:
    from edgeferry_devices.series import Series
    from edgeferry_runtime.profile import Profile

HEAD = (
    *("device", "bundle", "engine", "delegate", "p50 ms", "95 % interval"),
    *("p95 ms", "first ms", "init ms", "runs", "peak MB"),
)


def series_text(series: Series, top: int) -> str:
    """Lay out one row for each device and bundle, with all its rounds, and below what else was measured.

    Args:
        series: What was measured.
        top: Operators to show at most, where they were measured.
    """
    several = len(series.plan.bundles) > 1
    head = (*HEAD, f"times {label(series, series.plan.bundles[0].id)}") if several else HEAD
    rows = [(*_row(series, side), *([_ratio(series, side)] if several else [])) for side in series.sides()]
    return "\n".join([table([head, *rows]), *(line for p in series.profiles for line in _more(series, p, top))])


def series_warnings(series: Series) -> Iterator[str]:
    """Say why figures should not be trusted, each reason once for a device and bundle."""
    several = len(series.plan.bundles) > 1
    for side in series.sides():
        yield from pool_warnings(_where(series, side[0]), side)
    if several and any(len(side) == 1 for side in series.sides()):
        yield ONE_EACH


def label(series: Series, bundle_id: str) -> str:
    """Return a bundle's name, with the beginning of its id where another one has the same."""
    names = {bundle.id: bundle.manifest.name for bundle in series.plan.bundles}
    name = names[bundle_id]
    return f"{name} {bundle_id[:12]}" if list(names.values()).count(name) > 1 else name


def _where(series: Series, p: Profile) -> str:
    return f"{p.device}: {label(series, p.artifact['bundle'])}" if len(series.plan.bundles) > 1 else p.device


def _row(series: Series, side: tuple[Profile, ...]) -> tuple[str, ...]:
    p = side[0]
    peaks = [each.peak_rss_bytes for each in side if each.peak_rss_bytes is not None]
    return (
        p.device,
        label(series, p.artifact["bundle"]),
        f"{p.engine['name']} {p.engine['version']}",
        str(p.engine["delegate"]),
        *_latency(side),
        f"{np.median([each.first_inference_ms for each in side]):.3f}",
        f"{np.median([each.init_ms for each in side]):.1f}",
        str(sum(each.num_runs for each in side)),
        f"{max(peaks) / 2**20:.0f}" if peaks else "",
    )


def _latency(side: tuple[Profile, ...]) -> tuple[str, str, str]:
    """Return median, interval and 95th percentile; where there are no single runs, the middle of what was told."""
    if not has_samples(side):
        medians, p95s = [each.median_ms for each in side], [each.p95_ms for each in side]
        return f"{np.median(medians):.3f}", "unknown", f"{np.median(p95s):.3f}"
    pooled = pool(side)
    low, high = pooled.median_ms_ci95
    p95 = np.percentile(np.concatenate([each.samples_ms for each in side]), 95)
    return f"{pooled.median_ms:.3f}", f"{low:.3f} to {high:.3f}", f"{p95:.3f}"


def _ratio(series: Series, side: tuple[Profile, ...]) -> str:
    reference = series.reference(side)
    if reference is None:
        return ""
    if not has_samples((*reference, *side)):
        return "unknown"
    found = compare_profiles(reference, side)
    low, high = found.ratio_ci95
    return f"{found.ratio:.3f} ({low:.3f} to {high:.3f}), {found.verdict}"


def _more(series: Series, p: Profile, top: int) -> Iterator[str]:
    """Tell what one round tells beside its latency."""
    if p.windows:
        yield f"{_where(series, p)}: {drift_sentence(p.windows)}"
    if p.operators:
        yield f"\n{_where(series, p)}:\n{operators_text(profile_operators(p), top)}"
