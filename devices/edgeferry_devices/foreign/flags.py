"""The flags of ``benchmark_model`` for what is wanted."""

from __future__ import annotations

from edgeferry_runtime.engines import Delegate, parse_delegates
from edgeferry_runtime.errors import UsageError
from edgeferry_runtime.measurement.options import DEFAULTS, BenchOptions

OURS = {
    "sustained_secs": "--sustained",
    "cool_to": "--cool-to",
    "max_load": "--max-load",
    "ops": "--ops",
}
"""What our runtime does on a device, and no other program."""


def bench_flags(options: BenchOptions) -> list[str]:
    """Return the flags for measuring.

    Raises:
        UsageError: If something is wanted that it cannot do.
    """
    for field, option in OURS.items():
        if getattr(options, field) != getattr(DEFAULTS, field):
            reason = "is what our runtime does on a device, and a benchmark_model cannot"
            raise UsageError(option, reason, "leave it out, or leave out --benchmark-binary")
    return [
        f"--num_runs={options.num_runs}",
        f"--warmup_runs={options.warmup_runs}",
        f"--min_secs={options.min_secs:g}",
        f"--max_secs={options.max_secs:g}",
        *(["--warmup_min_secs=0"] if not options.max_warmup_secs else []),
        *delegate_flags(options),
    ]


def delegate_flags(options: BenchOptions) -> list[str]:
    """Return the flags for where to execute.

    Raises:
        UsageError: If `benchmark_model` cannot execute there.
    """
    places = parse_delegates(options.delegate)
    if len(places) > 1:
        reason = "is an order of preference, and a benchmark_model takes one delegate"
        raise UsageError(f"--delegate {options.delegate}", reason, f"give one, such as {places[0]}")
    full = ["--require_full_delegation=true"] if options.require_full_delegation else []
    return [*_place(places[0]), *full]


def _place(delegate: Delegate) -> list[str]:
    if delegate.is_plain_cpu:
        return [] if delegate.threads is None else [f"--num_threads={delegate.threads}"]
    if str(delegate) == "gpu":
        return ["--use_gpu=true"]
    if str(delegate) == "npu":
        return ["--use_nnapi=true"]
    if delegate.kind == "library" and not any(";" in word or ":" in word for pair in delegate.options for word in pair):
        options = ";".join(f"{key}:{value}" for key, value in delegate.options)
        told = [f"--external_delegate_options={options}"] if options else []
        return [f"--external_delegate_path={delegate.name}", *told]
    fix = "give cpu, cpu:THREADS, gpu, npu (which is NNAPI), or the path of a delegate library on the device"
    raise UsageError(f"--delegate {delegate}", "has no flag of benchmark_model", fix)
