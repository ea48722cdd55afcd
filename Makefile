# `make run` and `make test` each set up everything they need on a fresh machine.
PY ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A machine with an NVIDIA driver gets the CUDA build of jax, every other one the small CPU build.
# With a driver of CUDA 13 (580 or newer): `make run ACCELERATOR=cuda13`, after `make clean` if there
# is an environment.
ACCELERATOR ?= $(if $(shell command -v nvidia-smi 2>/dev/null),cuda12,cpu)

# Most of a test is compiling on one core; the files of the suite are shared out to two processes.
PARALLEL ?= -n 2 --dist loadfile

.PHONY: run test test-variants test-slow test-interop lint bench clean

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PY) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[$(ACCELERATOR),experiments]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[$(ACCELERATOR),experiments,test,lint]"
	@touch $@

# The default experiment; more overrides with ARGS="selection=top_k seed=1".
run: $(VENV)/.installed
	$(BIN)/rsft run experiment=stories $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

# What `test` leaves out of several cases alike.
test-variants: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "variant and not slow" $(PARALLEL) $(ARGS)

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow $(PARALLEL) $(ARGS)

# Against the other systems themselves, in an environment of its own; llama.cpp is compiled, which
# takes ten minutes and more, for those who ask: INTEROP=interop,llama_cpp.
INTEROP ?= interop
test-interop: setup.cfg pyproject.toml
	$(PY) -m venv $(VENV)-interop
	$(VENV)-interop/bin/pip install --quiet --disable-pip-version-check \
		--editable ".[cpu,experiments,test,$(INTEROP)]"
	$(VENV)-interop/bin/python -m pytest -m interop tests/interop_real $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(VENV)/.installed-dev
	$(BIN)/python -m rsft_jax.experiments.benchmarks $(ARGS)

clean:
	rm -rf $(VENV) $(VENV)-interop build *.egg-info
