# Every target makes its own virtual environment first; nothing else needs to be installed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# The C library keeps freed memory for the next forward pass, as the commands have it (faultcli/workload/process.py).
KEEP   := MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824

# Tests start many processes: modules are compiled once, even where Python is told to write no bytecode.
BYTECODE := PYTHONDONTWRITEBYTECODE=

.PHONY: demo test lint docs bench clean

demo: $(READY)
	$(BIN)/faultcli campaign --ber 1e-4 --format q2.5

test: $(READY)
	OMP_NUM_THREADS=1 $(KEEP) $(BYTECODE) $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python docs/tables.py

bench: $(READY)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
