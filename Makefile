# make demo    the main job, from training to a profiled device; DEVICE=pi@host does it on a real one
# make test    everything that needs no hardware
# make tiny    the quick tests of the runtime and the converter, in half a minute
# make runtime the runtime alone with each engine, on every Python that is found
# make lint    ruff and mypy
# make boards  the roots of the emulated boards, which `make test` then starts; once, as root or through sudo, on Debian
# make manifests  the schemas that `make test` holds the files of containers/ to, in a virtual environment of their own
# make bench   the benchmarks whose figures are in the docs
# make clients the clients of other projects, which the tests let speak to the server, in a virtual environment of their own
# make attacks the damaged models of docs/reliability.md, whose table is written anew; ATTACKS=40 of each kind
# Each target makes the virtual environment and installs the packages when they are not there yet.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
DEVICE ?= local
OUT ?= build/demo
ATTACKS ?= 40
BIN = $(VENV)/bin
READY = $(VENV)/.ready
CLIENTS = build/clients
MANIFESTS = build/manifests

.PHONY: demo test tiny runtime lint boards clients manifests bench attacks clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/python samples/demo.py --device '$(DEVICE)' --out '$(OUT)'

# The files in the order of their names, the emulated boards early: last of all they would keep one worker waiting.
test: lint clients manifests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/nox -s "runtime-3.13(litert)"

# A framework is not imported here: in each of three processes that takes longer than all the rest.
tiny: $(READY)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'not slow and not zoo' tests/runtime tests/converter \
	  --ignore-glob '*torch*.py' --ignore-glob '*keras*.py' --ignore-glob '*prune_channels*.py'

runtime: $(READY)
	$(BIN)/nox -s runtime

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

boards: $(READY)
	$(BIN)/python tests/boards/roots.py

clients: $(CLIENTS)/.ready

$(CLIENTS)/.ready: tests/serving/clients/requirements.txt
	$(PYTHON) -m venv --clear $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet -r $<
	touch $@

manifests: $(MANIFESTS)/.ready

$(MANIFESTS)/.ready: tests/serving/manifests/requirements.txt
	$(PYTHON) -m venv --clear $(MANIFESTS)
	$(MANIFESTS)/bin/python -m pip install --quiet --no-deps -r $<
	touch $@

bench: $(READY)
	for benchmark in benchmarks/*.py; do $(BIN)/python "$$benchmark" || exit 1; done

attacks: $(READY)
	$(BIN)/python tests/attacks/attack.py --each $(ATTACKS) --write docs/reliability.md

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .nox
