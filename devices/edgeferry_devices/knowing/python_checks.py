"""What hinders on the side of Python: its version, its C library, the engines and NumPy.

What will do is decided by `edgeferry_devices.installation`, which the installation itself asks too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgeferry_devices.inside import NO_SERVICE
from edgeferry_devices.installation import NO_PYTHON, Installation, numpy_lack, plan, refusal, unfit
from edgeferry_devices.inventory import ADB, LOCAL
from edgeferry_devices.knowing.finding import Finding, failure, ok, warning
from edgeferry_devices.knowing.wheels_known import FORMATS, RUNS, SERVE
from edgeferry_devices.platforms import OLDEST, Platform
from edgeferry_runtime.machine import ENGINES

if TYPE_CHECKING:
    from edgeferry_devices.facts import Facts

SIGNALS: Mapping[str, str] = {
    "signal 4": "dies of SIGILL: this processor lacks instructions that it was built for",
    "signal 7": "dies of SIGBUS",
    "signal 9": "was killed, most likely for want of memory",
    "signal 11": "dies of SIGSEGV",
}


def python(facts: Facts) -> Iterator[Finding]:
    """Is there a Python that will do?"""
    if facts.address.startswith(ADB):
        reason = "Android has no Python: bundles cannot be pushed there, but measured"
        yield warning("python", reason, "give a benchmark_model: ferry profile --benchmark-binary FILE")
        return
    if not facts.pythons:
        yield failure("python", *NO_PYTHON)
        return
    best = Platform.of(facts.pythons[0])
    lack = unfit(best)
    if lack and (facts.device != LOCAL or best.version < OLDEST):
        yield failure("python", *lack)
    else:
        libc = best.libc or facts.machine.get("libc") or "another C library than glibc"
        yield ok("python", f"Python {best.dotted}, {best.bits}-bit, {libc}")


def _plan(facts: Facts) -> Installation | None:
    """Return what would be installed; nothing is planned for this machine, nor for a Python that is too old."""
    if not facts.pythons or facts.device == LOCAL:
        return None
    best = Platform.of(facts.pythons[0])
    return None if best.version < OLDEST else plan(best)


def engines(facts: Facts) -> Iterator[Finding]:
    """Is there an engine for each format, installed or to be installed?"""
    if not facts.pythons or Platform.of(facts.pythons[0]).version < OLDEST:
        return
    best, planned = facts.pythons[0], _plan(facts)
    installed = {RUNS[name] for name in best["engines"] if name in RUNS}
    to_come = planned.brought if planned else {}
    missing = [name for name in FORMATS if name not in installed and name not in to_come]
    for name in FORMATS:
        if name in installed:
            yield ok("engines", f"{FORMATS[name]}: {_versions(best, name)}")
        elif name in to_come:
            yield ok("engines", f"{FORMATS[name]}: a wheel of {to_come[name].engine} fits")
        else:
            say = failure if len(missing) == len(FORMATS) else warning
            yield say("engines", *_missing(planned, name))


def _versions(best: Mapping[str, Any], artifact: str) -> str:
    return ", ".join(f"{ENGINES[n][0]} {v}" for n, v in best["engines"].items() if RUNS.get(n) == artifact)


def _missing(planned: Installation | None, artifact: str) -> tuple[str, str]:
    if planned is not None:
        return refusal(planned.platform, artifact)
    extra = "litert" if artifact == "tflite" else "onnx"
    what = f"{FORMATS[artifact]} bundles will not run"
    return f"{what}: no engine is installed", f"pip install 'edgeferry[{extra}]'"


def serve(facts: Facts) -> Iterator[Finding]:
    """Is the server installed, and if not, can it be?"""
    planned = _plan(facts)
    if facts.machine.get("inside"):
        yield warning("serve", *NO_SERVICE)
    elif SERVE in facts.folder.get("parts", ()):
        yield ok("serve", "the server is installed")
    elif planned is not None and planned.server:
        yield ok("serve", f"the server is not installed; it can be: ferry device setup {facts.device} --serve")
    elif planned is not None and planned.formats:
        yield warning("serve", *refusal(planned.platform, SERVE))


def imports(facts: Facts) -> Iterator[Finding]:
    """Can the engines that are installed be imported?"""
    for name, said in facts.machine.get("imports", {}).items():
        if said:
            reason = f"{ENGINES[name][0]} {SIGNALS.get(said, f'cannot be imported: {said}')}"
            yield failure("imports", reason, _remedy(facts))
        else:
            yield ok("imports", f"{ENGINES[name][0]} can be imported")


def _remedy(facts: Facts) -> str:
    if facts.device == LOCAL or not facts.runtime:
        return "install the engine anew, in a version for this processor and system"
    return f"install it anew: ferry device setup {facts.device}"


def numpy(facts: Facts) -> Iterator[Finding]:
    """Does NumPy fit the engine? tflite-runtime needs NumPy 1, and on 32 bits NumPy is the distribution's."""
    if not facts.pythons:
        return
    best, planned = Platform.of(facts.pythons[0]), _plan(facts)
    on_32_bits = planned is not None and planned.system_site_packages and bool(planned.brought)
    if not on_32_bits and ("tflite_runtime" not in best.engines or not best.numpy):
        return
    if lack := numpy_lack(best, ["tflite_runtime"]):
        yield failure("numpy", *lack)
    else:
        yield ok("numpy", f"NumPy {best.numpy}, which tflite-runtime needs")
