# Everything here needs `python3` (3.11 or newer) and `make`; the rest is fetched into a virtual environment.
#
#   make demo                     draw the example pipeline
#   make test                     what CI runs
#   make test PYTHON=python3.13 VENV=.venv-3.13
#   make test TESTS="tests/test_run.py -k diamond"

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
TESTS ?=
CASES ?= 1000000
RUNS ?= 200
KILLS ?= 10000

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
METADATA := pyproject.toml setup.cfg

.DEFAULT_GOAL := help
.PHONY: help demo dev test simulate chaos crash lint format bench lock clean

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## run the example pipeline and draw it
	$(BIN)/python examples/pipeline.py -gv pydot
	@echo "The picture is images/pydot_graph.png"

dev: $(VENV)/.dev  ## make the environment of a developer, in .venv

test: $(VENV)/.dev  ## style, types, arrows and tests: all of them run, whichever fails
	@failed=; \
	try() { echo "$$ $$*"; "$$@" || failed="$$failed\n  $$*"; }; \
	try $(BIN)/ruff check .; \
	try $(BIN)/ruff format --check .; \
	try $(BIN)/mypy; \
	try $(BIN)/lint-imports --no-logo; \
	try $(BIN)/python -m pytest -n $(WORKERS) $(TESTS); \
	if [ -n "$$failed" ]; then printf "Failed:$$failed\n" >&2; exit 1; fi

simulate: $(VENV)/.dev  ## random graphs times random faults, a million cases beside plain Python
	$(BIN)/python -m tests.simulate $(CASES)

chaos: $(VENV)/.dev  ## ten thousand real workers killed with SIGKILL, in all phases of their work
	$(BIN)/python -m tests.chaos --runs $(RUNS) --kills $(KILLS)

crash: $(VENV)/.dev  ## a store and a run with it, broken at every system call; every bit of an entry flipped (needs strace)
	$(BIN)/python -m tests.crash
	$(BIN)/python -m tests.crash_run

lint: $(VENV)/.dev  ## style, types and arrows only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.dev  ## put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## measure, each figure beside its floor
	$(BIN)/python benchmarks/run.py

lock: $(VENV)/.dev  ## renew requirements/ci.lock, for every platform and Python at once
	$(PIP) install uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --upgrade \
		--custom-compile-command "make lock" --output-file requirements/ci.lock pyproject.toml

clean:  ## remove the environment and everything made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is ready when its stamp is newer than what it was made from.

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		found=$$($(PYTHON) --version 2>/dev/null) || found="not there"; \
		echo "tinygraph needs Python 3.11 or newer; '$(PYTHON)' is $$found." >&2; \
		echo "Name another one:  make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu it comes with the package python3-venv." >&2; \
		rm -rf $(VENV); exit 1; }
	@touch $@

$(VENV)/.demo: $(VENV)/.made $(METADATA)
	$(PIP) install -e '.[render]' --config-settings editable_mode=compat
	@touch $@

$(VENV)/.dev: $(VENV)/.made $(METADATA) requirements/ci.lock
	$(PIP) install -r requirements/ci.lock
	$(PIP) install --no-deps -e . --config-settings editable_mode=compat
	@touch $@
