"""Runs in each Python of a device, however old: sent as text, standard library only. Prints one line of JSON.

The argument, if there is one, is the flag with which engines are imported, each in a process of its own.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

import importlib.util
import json
import os
import platform
import struct
import subprocess
import sys

ENGINES = {
    "ai_edge_litert": ("ai-edge-litert", "ai_edge_litert.interpreter"),
    "tflite_runtime": ("tflite-runtime", "tflite_runtime.interpreter"),
    "tensorflow.lite": ("tensorflow", ""),
    "onnxruntime": ("onnxruntime", "onnxruntime"),
}
TRY_TIMEOUT_S = 100
QUIET = {"ORT_DISABLE_TELEMETRY": "1"}
"""Without it ONNX Runtime 1.31 and newer leaves files in the account's home when it is imported, and reports."""


def version(distribution):
    """Return the version of an installed distribution, or nothing; Python before 3.8 cannot tell."""
    try:
        from importlib import metadata

        return metadata.version(distribution)
    except ImportError:
        return None


def attempt(module):
    """Import a module in a process of its own; return what went wrong, or nothing."""
    argv = [sys.executable, sys.argv[1], "-c", "import " + module]
    try:
        with subprocess.Popen(
            argv, env=dict(QUIET, **os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:
            try:
                said = child.communicate(timeout=TRY_TIMEOUT_S)[1].decode("utf-8", "replace").strip().splitlines()
            except subprocess.TimeoutExpired:
                child.kill()
                return "no answer within " + str(TRY_TIMEOUT_S) + " s"
    except OSError as error:
        return str(error)
    if child.returncode < 0:
        return "signal " + str(-child.returncode)
    return "" if child.returncode == 0 else (said or ["status " + str(child.returncode)])[-1][:300]


def libc():
    """Return the C library, such as ``glibc 2.36``, or nothing."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError, AttributeError):
        return ""


def main():
    """Say what this Python is."""
    found = {name: version(names[0]) for name, names in ENGINES.items()}
    engines = {name: told for name, told in found.items() if told}
    facts = {
        "python": sys.executable,
        "version": list(sys.version_info[:3]),
        "system": "android" if hasattr(sys, "getandroidapilevel") else sys.platform,
        "bits": struct.calcsize("P") * 8,
        "machine": platform.machine(),
        "libc": libc(),
        "venv": importlib.util.find_spec("venv") is not None,
        "page_size": os.sysconf("SC_PAGE_SIZE"),
        "numpy": version("numpy"),
        "engines": engines,
        "imports": {name: attempt(ENGINES[name][1]) for name in engines if ENGINES[name][1] and sys.argv[1:]},
    }
    sys.stdout.write("\n" + json.dumps({"edgeferry": facts}) + "\n")


if __name__ == "__main__":
    main()
