# make demo: the whole path on a small model. make test: the tests. Both set up .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ROOMS := runtime copgen_ref export calibration

.PHONY: demo test test-slow lint clean

demo: $(INSTALLED)
	$(BIN)/copgen-edge demo --out demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow and not gpu"

# The rooms install below one name that no folder here has, so the type checker is shown them through links.
lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p build/types/copgen_edge
	@for room in $(ROOMS); do ln -sfn ../../../$$room build/types/copgen_edge/$$room; done
	$(BIN)/mypy $(addprefix -p copgen_edge.,$(ROOMS))

# A narrow torch: with a looser range pip takes a build with several gigabytes of CUDA libraries.
$(INSTALLED): pyproject.toml
	@echo "setting up $(VENV) (1.9 GB, once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable ".[cpu,export,evaluate,tensorrt-rtx,dev]"
	@touch $@

clean:
	rm -rf $(VENV) build demo
