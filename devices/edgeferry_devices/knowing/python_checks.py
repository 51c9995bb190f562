"""What hinders on the side of Python: its version, its C library, the engines and NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from edgeferry_devices.inventory import LOCAL
from edgeferry_devices.knowing.finding import Finding, failure, ok, warning
from edgeferry_devices.knowing.wheels_known import fitting, glibc, lacks
from edgeferry_devices.platforms import OLDEST, Platform, choose
from edgeferry_runtime.errors import DeviceRequirementError
from edgeferry_runtime.machine import ENGINES

if TYPE_CHECKING:
    from edgeferry_devices.facts import Facts

FORMATS: Mapping[str, str] = {"tflite": "TFLite", "onnx": "ONNX"}
RUNS: Mapping[str, str] = {
    "ai_edge_litert": "tflite",
    "tflite_runtime": "tflite",
    "tensorflow.lite": "tflite",
    "onnxruntime": "onnx",
}
"""By engine, the format that it runs."""

PROOT = "in Termux: pkg install proot-distro, then install Debian in it and its SSH server, and add that as the device"
SIGNALS: Mapping[str, str] = {
    "signal 4": "dies of SIGILL: this processor lacks instructions that it was built for",
    "signal 7": "dies of SIGBUS",
    "signal 9": "was killed, most likely for want of memory",
    "signal 11": "dies of SIGSEGV",
}


def python(facts: Facts) -> Iterator[Finding]:
    """Is there a Python that will do?"""
    if not facts.pythons:
        fix = "install Python 3.10 or newer there (Debian: sudo apt install python3), on the PATH of SSH commands"
        yield failure("python", "no Python 3 was found", fix)
        return
    best = facts.pythons[0]
    name = f"Python {'.'.join(str(part) for part in best['version'])}, {best['bits']}-bit"
    libc = best.get("libc") or facts.machine.get("libc") or "another C library than glibc"
    if tuple(best["version"]) < OLDEST:
        yield failure("python", f"{name}, and 3.10 is the oldest that works", "install a newer Python there")
    elif not best["venv"] and facts.device != LOCAL:
        fix = "install it there (Debian: sudo apt install python3-venv); ensurepip and pip are not needed"
        yield failure("python", f"{name} lacks the module venv", fix)
    elif refusal := _refusal(facts, best):
        yield failure("python", *refusal)
    else:
        yield ok("python", f"{name}, {libc}")


def _refusal(facts: Facts, best: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return why a push would refuse this Python though a wheel fits it: the installation has the last word."""
    if facts.device == LOCAL or not fitting(best):
        return None
    known = {field.name: best[field.name] for field in fields(Platform) if field.name in best}
    try:
        choose(facts.device, [Platform(**{**known, "version": tuple(best["version"])})])
    except DeviceRequirementError as error:
        return error.reason, error.fix
    return None


def engines(facts: Facts) -> Iterator[Finding]:
    """Is there an engine for each format, installed or to be installed?"""
    best = facts.pythons[0] if facts.pythons else None
    if best is None or tuple(best["version"]) < OLDEST:
        return
    installed = {RUNS[name] for name in best["engines"] if name in RUNS}
    to_come = {} if facts.device == LOCAL else fitting(best)
    missing = [name for name in FORMATS if name not in installed and name not in to_come]
    for name in FORMATS:
        if name in installed:
            yield ok("engines", f"{FORMATS[name]}: {_versions(best, name)}")
        elif name in to_come:
            yield ok("engines", f"{FORMATS[name]}: a wheel of {to_come[name]} fits")
        else:
            say = failure if len(missing) == len(FORMATS) else warning
            yield say("engines", *_missing(facts, best, name))


def _versions(best: Mapping[str, Any], artifact: str) -> str:
    return ", ".join(f"{ENGINES[n][0]} {v}" for n, v in best["engines"].items() if RUNS.get(n) == artifact)


def _missing(facts: Facts, best: Mapping[str, Any], artifact: str) -> tuple[str, str]:
    what = f"{FORMATS[artifact]} bundles will not run"
    if facts.device == LOCAL:
        return (
            f"{what}: no engine is installed",
            f"pip install 'edgeferry[{'litert' if artifact == 'tflite' else 'onnx'}]'",
        )
    reason = f"{what}: {lacks(best, artifact)}"
    if "termux" in facts.machine or "android_api" in facts.machine:
        return f"{what}: there are no wheels for Android's C library", PROOT
    if best["bits"] == 32:
        return reason, "install the 64-bit system there; TFLite runs on 32 bits with Python 3.11 and NumPy 1"
    if not glibc(best):
        return f"{what}: there are no wheels for {best.get('libc') or 'a C library other than glibc'}", (
            "use a distribution with glibc there, such as Debian or Ubuntu"
        )
    return reason, "install a Python from 3.10 to 3.14 on a system with glibc 2.27 or newer there"


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
    return f"remove {facts.root}/venv there, and push again: it is installed anew"


def numpy(facts: Facts) -> Iterator[Finding]:
    """Does NumPy fit the engine? tflite-runtime needs NumPy 1, and on 32 bits NumPy is the distribution's."""
    best = facts.pythons[0] if facts.pythons else None
    if best is None or not ("tflite_runtime" in best["engines"] or fitting(best).get("tflite") == "tflite-runtime"):
        return
    version = str(best.get("numpy") or "")
    if version and int(version.split(".", maxsplit=1)[0]) >= 2:
        fix = "install NumPy 1 there (in an environment of its own), or use the 64-bit system and LiteRT"
        yield failure("numpy", f"NumPy {version} is installed, and tflite-runtime needs NumPy 1", fix)
    elif not version and best["bits"] == 32:
        fix = "install it there (Debian: sudo apt install python3-numpy)"
        yield failure("numpy", "NumPy is missing, and has no wheels for 32 bits", fix)
    elif version:
        yield ok("numpy", f"NumPy {version}, which tflite-runtime needs")
