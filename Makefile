# make demo    the main job, from training to a profiled device; DEVICE=pi@host does it on a real one
# make test    everything that needs no hardware
# make tiny    the quick tests, under 30 seconds
# make runtime the runtime alone with each engine, on every Python that is found
# make lint    ruff and mypy
# make bench   the benchmarks whose figures are in the docs
# make attacks the damaged models of docs/reliability.md, whose table is written anew; ATTACKS=40 of each kind
# Each target makes the virtual environment and installs the packages when they are not there yet.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
DEVICE ?= local
OUT ?= build/demo
ATTACKS ?= 40
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test tiny runtime lint bench attacks clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/python samples/demo.py --device '$(DEVICE)' --out '$(OUT)'

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile
	$(BIN)/nox -s "runtime-3.13(litert)"

tiny: $(READY)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'not slow and not zoo' tests/runtime tests/converter

runtime: $(READY)
	$(BIN)/nox -s runtime

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	for benchmark in benchmarks/*.py; do $(BIN)/python "$$benchmark" || exit 1; done

attacks: $(READY)
	$(BIN)/python tests/attacks/attack.py --each $(ATTACKS) --write docs/reliability.md

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .nox
