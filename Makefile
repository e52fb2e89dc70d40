# make quickstart   set up, train on the built-in corpus, print samples, write runs/quickstart/report.md with plots
# make test         set up, run the tests
# make lint         set up, check the style
# make site         set up, build the documentation into site/

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --quiet --disable-pip-version-check install
# where there is no NVIDIA GPU, PyTorch's own index has builds without CUDA's 2 GB
TORCH_INDEX := $(if $(shell command -v nvidia-smi),,--extra-index-url https://download.pytorch.org/whl/cpu)

.PHONY: setup quickstart test lint site

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --retries 0 --timeout 10 $(TORCH_INDEX) "$$(sed -n 's/^\(torch[^ ]*\).*/\1/p' requirements.txt)"
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --editable .
	touch $@

quickstart: setup
	$(BIN)/python train.py --config=configs/quickstart.py --workdir=runs/quickstart
	$(BIN)/python -m rmat_jax evaluate --workdir=runs/quickstart --suite=position --out=runs/quickstart

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .

site: setup
	$(PIP) --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
