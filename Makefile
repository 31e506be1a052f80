# Two commands on a fresh machine: `make quickstart` and `make test`. They need python3 (3.11 or newer) with venv, and a
# package index. `make test PYTHON=python3.12` uses another Python, in an environment of its own.

PYTHON ?= python3
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
# What was tested with this Python: `pip freeze` of an environment that passed. Other versions take what is newest.
CONSTRAINTS := $(wildcard constraints/$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt)
INSTALL := python -m pip install --quiet --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS))
BIN := $(VENV)/bin
RUN := runs/quickstart

.PHONY: quickstart test lint parity clean

# Trains a narrow net A on real digits with scale jitter, evaluates it, prints the table: minutes on two cores. A run that
# is there goes on; RUN=... names another folder.
quickstart: $(VENV)/.installed
	$(BIN)/python -m vgg_jax.main --config=quickstart --workdir=$(RUN)
	@echo
	$(BIN)/python -m vgg_jax.main --mode=evaluate --workdir=$(RUN)
	@echo
	@echo "Look at $(RUN)/batch.png (what the net sees) and $(RUN)/curves.png (how it learned)."

test: $(VENV)/.installed
	$(BIN)/python -m pytest --ignore=tests/parity -n 3 --dist worksteal  # some tests wait for processes
	$(BIN)/python -m pytest --doctest-modules vgg_jax -p no:cacheprovider -n 2

# Against the real PyTorch and torchvision; slower, and a larger installation.
parity: $(VENV)/.installed-parity
	$(BIN)/python -m pytest tests/parity

lint: $(VENV)/.installed-parity
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck launch/*.sh launch/*.sbatch .ci/run

$(VENV)/.made:
	@[ ! -e $(VENV) ] || [ -e $(VENV)/.installed ] || \
	  { echo "$(VENV) is there, and make did not make it: move it away, or name another, VENV=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: setup.cfg $(CONSTRAINTS) | $(VENV)/.made
	$(BIN)/$(INSTALL) -e '.[test]'
	touch $@

# torchvision's wheel asks for the CUDA build of torch, timm and lpips for torchvision; the parts used here need none.
$(VENV)/.installed-parity: $(VENV)/.installed
	$(BIN)/$(INSTALL) -e '.[test,parity]'
	$(BIN)/$(INSTALL) --no-deps torchvision timm lpips
	touch $@

# The environment, if it was made here. Runs are yours.
clean:
	@[ ! -e $(VENV)/.made ] || rm -rf $(VENV)
