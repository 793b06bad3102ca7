# The door to everything. `make help` lists the words.
#
# Each word creates .venv in this folder where it is missing and installs what it needs, with the exact versions of
# constraints.txt; it installs again after pyproject.toml or constraints.txt changed.
#
# torch is installed first, because its builds differ by device. The default below takes the build that your package
# index prefers: on PyPI for Linux that is the CUDA one. Name another with TORCH, for example
#   make demo TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu'     a host without a GPU
#   make demo TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130'   another CUDA version

PYTHON ?= python3
TORCH  ?= torch==2.13.0
SEED   ?= 1

BIN     := .venv/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := rlhf stages labeling_ui tests benchmarks

.DEFAULT_GOAL := help
.PHONY: help setup demo test fast faults load evidence bench check format

help:  ## list these words
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/:/' | awk -F: '{printf "  make %-8s %s\n", $$1, $$2}'

setup: .venv/.installed-dev  ## create .venv with everything for training, labeling and tests

demo: .venv/.installed-train  ## the whole pipeline on the embedded world, on CPU (SEED=1)
	$(BIN)/rlhf run configs/quickstart.yaml --seed $(SEED)

test: .venv/.installed-dev  ## every test that this machine can run
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

fast: .venv/.installed-dev  ## the tests without the slow ones
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not distributed and not ui"

faults: .venv/.installed-dev  ## every stage disturbed, 100 kills (runs/faults); PPO and the label server killed 20 times each; no disk space
	FAULT_KILLS=20 $(BIN)/pytest tests/faults
	$(BIN)/python -m tests.faults.campaign runs/faults

load: .venv/.installed-dev  ## 30,000 answers by 8 processes on both databases; 50 annotators over HTTP (half an hour)
	$(BIN)/python -m tests.load.store
	$(BIN)/python -m tests.load.server

evidence: .venv/.installed-dev  ## PPO beside a known optimum, recipes beside their controls, chosen labels beside random ones (runs/evidence)
	mkdir -p runs/evidence
	$(BIN)/python -m tests.exact.evidence runs/evidence/exact.json
	$(BIN)/python -m tests.real.controls runs/evidence
	$(BIN)/python -m tests.real.rewards runs/evidence
	$(BIN)/python -m tests.real.prioritise runs/evidence/quickstart-1 runs/evidence/prioritise.json

check: .venv/.installed-dev  ## ruff, pyright, import-linter
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: .venv/.installed-dev  ## let ruff rewrite the sources
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: .venv/.installed-dev  ## time generation, reward training and PPO beside other programs, about an hour (docs/performance.md)
	$(BIN)/python -m benchmarks.generate
	$(BIN)/python -m benchmarks.reward
	$(BIN)/python -m benchmarks.ppo

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=")'
	$(PYTHON) -m venv .venv

.venv/.installed-train: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) install $(TORCH)
	$(PIP) install --constraint constraints.txt --editable '.[train]'
	@touch $@

# The larger set contains the smaller one.
.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) install $(TORCH)
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch .venv/.installed-train $@
