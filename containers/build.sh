#!/bin/sh
# build.sh SOURCE PREFIX: what is in the image, as a virtual environment at PREFIX.
#
# The Dockerfile calls it, and a test runs it in a fresh environment. SOURCE is this repository, or a wheel beside a
# constraints.txt. ENGINES names what executes: litert, onnx, or both (the default). PYTHON is the interpreter.
set -eu

[ $# -eq 2 ] || { echo "usage: build.sh SOURCE PREFIX" >&2; exit 2; }
source=$1 prefix=$2
engines=${ENGINES:-litert,onnx}
python=${PYTHON:-python3}
case $source in
    *.whl) constraints=$(dirname "$source")/constraints.txt ;;
    *) constraints=$source/constraints.txt ;;
esac

"$python" -m venv "$prefix"
"$prefix/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check \
    --constraint "$constraints" "$source[serve,$engines]"

# The image serves: it neither converts, nor carries to devices, nor installs.
packages=$("$prefix/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$prefix/bin/python" -m pip uninstall --quiet --yes pip setuptools 2>/dev/null
rm -rf "$packages/edgeferry_converter" "$packages/edgeferry_devices" "$packages/pip" "$packages/setuptools"
find "$packages" -type d \( -name tests -o -name testing \) -path '*/numpy/*' -prune -exec rm -rf {} +

# What is left starts, and each engine that was asked for is there.
cd /
"$prefix/bin/ferry" serve --help >/dev/null
"$prefix/bin/python" - "$engines" <<'CHECK'
import importlib
import sys

import edgeferry_runtime.serving.server

MODULES = {"litert": "ai_edge_litert.interpreter", "onnx": "onnxruntime"}
for engine in sys.argv[1].split(","):
    importlib.import_module(MODULES[engine])
CHECK
