# Set up, run and test fedllm with nothing but Python 3.11, make and a package registry.
#
#   make run                     the default federation; ARGS="recipes/x.toml strategy.name=dense" for another
#   make test                    the default tests, in two processes; ARGS="-k codec -x" for some
#   make check                   ruff and mypy
#   make bench                   fedllm beside its limits and peers, 25 minutes; docs/performance.md
#   make bench-quick             a smaller version, 3 minutes
#   make reproduce-photon ARGS="--data DIR"    pre-training, hours in the background; docs/reproducing-photon.md
#   make reproduce-devices ARGS="--data DIR"   settings for uneven devices, hours in the background; docs/guide.md
#   make reproduce-cross-device ARGS="--roles FILE --text DIR"    models on devices; docs/reproducing-cross-device.md
#   make reproduce-instruction ARGS="--data DIR --model FILE"    about an hour in the background; docs/instruction-tuning.md
#   make reproduce ARGS="..."    the thesis' figures, hours in the background; docs/reproducing-floss.md

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: setup run test check bench bench-quick reproduce reproduce-photon reproduce-cross-device \
	reproduce-devices reproduce-instruction clean

setup: $(VENV)/installed

# The stamp comes last: an installation that was cut off is done again.
$(VENV)/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and f"Python 3.11 or later is needed; {sys.executable} is {v[0]}.{v[1]}. Name another: make PYTHON=python3.11 ...")'
	@echo "Installing pinned requirements into $(VENV) (once; some minutes)."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: setup
	$(BIN)/fedllm run $(ARGS)

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks.bench $(ARGS)

bench-quick: setup
	$(BIN)/python -m benchmarks.bench --quick $(ARGS)

reproduce: setup
	$(BIN)/python -m benchmarks.reproduce $(ARGS)

reproduce-photon: setup
	$(BIN)/python -m benchmarks.photon $(ARGS)

reproduce-devices: setup
	$(BIN)/python -m benchmarks.devices $(ARGS)

reproduce-cross-device: setup
	$(BIN)/python -m benchmarks.crossdevice $(ARGS)

reproduce-instruction: setup
	$(BIN)/python -m benchmarks.instruction $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
