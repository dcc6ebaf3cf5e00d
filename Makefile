# Two commands set up everything on a fresh machine: `make quickstart` and `make test`.

PYTHON ?= python3
# Torch comes first and alone, so that whatever build the machine offers for it (CPU, CUDA) is the one that stays.
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: quickstart test test-fast test-real check docs clean

quickstart: .venv/ready
	$(BIN)/pefttune train film-sentiment
	$(BIN)/pefttune predict film-sentiment \
		"A gorgeous, witty, seductive movie." \
		"Two hours of my life that I will never get back." \
		"The plot is thin, but the cast makes it sparkle."

test: test-fast test-real

test-fast: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not real" -n 2 --dist worksteal

test-real: .venv/ready
	$(BIN)/python -m pytest -m real

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

docs: .venv/ready
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/capabilities.py

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

clean:
	rm -rf .venv
