# make demo: set everything up, convert, run, measure, check.  make test: set everything up, pass the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := out
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile
MODEL := $(OUT)/tofe_deit_tiny_090-jetson_orin-int8.pte

.PHONY: demo test test-toolchains gpu-check runtime-wheels fuzz kills lint clean

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: $(VENV)/ready
	$(BIN)/tofe-edge select --profile jetson_orin
	$(BIN)/tofe-edge convert --profile jetson_orin --out $(OUT)
	$(BIN)/tofe-edge run $(MODEL) tofe_edge/io/samples/chelsea.jpg
	$(BIN)/tofe-edge profile $(MODEL)
	$(BIN)/tofe-edge parity $(MODEL)

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One process a core, one thread a process: threads of several processes on the same cores wait for each other.
test: lint
	$(PYTEST) -m "not toolchain"

# What compiles and emulates for other platforms: Android, Apple, Linux on 64-bit ARM. Skips what is not installed.
test-toolchains: $(VENV)/ready
	$(PYTEST) -m toolchain

# A GPU: parity with the CPU, throughput and, with GPU="--weights FILE --start CKPT --data DATA", a training run; under 8 minutes.
gpu-check: $(VENV)/ready
	$(BIN)/python -m benchmarks.gpu_check --out $(OUT)/gpu $(GPU)

# dist/tofe_runtime-*.whl: Python on boards without PyTorch, docs/board.md.
runtime-wheels: $(VENV)/ready
	$(BIN)/python -m tofe_edge.packaging.runtime_wheel

# Ten minutes of corrupted inputs for every reader, and the table of what became of them; kills at random moments.
FUZZ := PYTHONPATH=tests:tests/packaging:tests/runtimes OMP_NUM_THREADS=1 $(BIN)/python
fuzz: $(VENV)/ready
	$(FUZZ) tests/fuzz/fuzz.py --seconds 600 --seed 0

kills: $(VENV)/ready
	$(FUZZ) tests/fuzz/kills.py

clean:
	rm -rf $(OUT) .mypy_cache .ruff_cache .pytest_cache
