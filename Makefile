# `make` says what there is. PYTHON=/path/to/python uses that interpreter as it is and installs nothing.
.DEFAULT_GOAL := help
.PHONY: help given setup setup-tensorrt-llm setup-vllm bench smoke report publish bench-kernels paper lint audit test test-kills test-gpu test-gpu-faults test-slurm soak clean wheels
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

ARGS ?=
KILLS ?= 100
RUN ?=
JOBS ?= 2
OFFLINE ?= hydra-core omegaconf antlr4-python3-runtime
COMPILED ?= greenlet
FOR ?=
ENGINE_PYTHON ?= python3.12

ifeq ($(origin PYTHON),undefined)
  KEY := $(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)
  READY := .venv/.ready-$(KEY)
  PY := .venv/bin/python
else
  READY := given
  PY := $(PYTHON)
endif

help: ## say what each target does
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  overrides: make bench ARGS="run=[baseline,jit] sweep.blocks=1"; all of them: make bench ARGS=--help'

NEEDED := greenlet hydra jinja2 matplotlib msgpack pandas pynvml rich safetensors scipy torch transformers
given:
	@command -v "$(PY)" >/dev/null || { echo "error: PYTHON=$(PY) is not there: give the path of a Python, or leave PYTHON out" >&2; exit 2; }
	@lost="$$($(PY) -c 'import importlib.util as u, sys; print(*[name for name in sys.argv[1:] if u.find_spec(name) is None], sep=", ")' $(NEEDED))" \
		|| { echo "error: PYTHON=$(PY) does not run Python: give the path of one, or leave PYTHON out" >&2; exit 2; }; \
		test -z "$$lost" || { echo "error: PYTHON=$(PY) lacks $$lost: install it (make wheels, on a machine with network), or leave PYTHON out" >&2; exit 2; }

setup: $(READY) ## make .venv with the exact versions of constraints.txt, if it is not there

.venv/.ready-%:
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: python3 is $$(python3 -V 2>&1), and Python 3.11 or newer is needed: put one first on PATH, or give PYTHON=/path/to/python with the packages installed" >&2; exit 2; }
	test -x .venv/bin/python || python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	rm -f .venv/.ready-*
	touch $@

# An engine that pins its own torch: a line like this, an extra of its name in pyproject.toml, and
# `python: $${engine_python:NAME}` in its yaml.
setup-tensorrt-llm: .venv-tensorrt-llm/.ready ## .venv-tensorrt-llm, an environment of TensorRT-LLM's own, beside .venv

setup-vllm: .venv-vllm/.ready ## .venv-vllm, an environment of vLLM's own, beside .venv

# Not `.[NAME]`: the harness's own dependencies, torch among them, are not the engine's. A worker needs msgpack alone.
.venv-%/.ready:
	@command -v "$(ENGINE_PYTHON)" >/dev/null || { \
		echo "error: $* needs $(ENGINE_PYTHON), which is not here: install it, or name another Python from 3.11 on with ENGINE_PYTHON=" >&2; exit 2; }
	@nvidia-smi -L 2>/dev/null | grep -q GPU || { \
		echo "error: $* runs on an NVIDIA GPU, and nvidia-smi shows none here: set it up on the machine that has one" >&2; exit 2; }
	@rm -rf .venv-$*; "$(ENGINE_PYTHON)" -m venv .venv-$* \
		&& wanted="$$(.venv-$*/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['$*'])")" \
		&& .venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip setuptools wheel \
		&& .venv-$*/bin/python -m pip install --quiet --disable-pip-version-check $$wanted "$$(grep '^msgpack==' constraints.txt)" \
		&& touch $@ || { rm -rf .venv-$*; \
		echo "error: $* was not installed, and .venv-$* is removed again: the lines above say why; it needs network to the package indexes, and what the engine's own guide names" >&2; exit 2; }

bench: $(READY) ## measure: the default run on a GPU with 20 GiB free, else the CPU smoke run
	@set -f; preset="$$($(PY) -m harness.settings.preset $(ARGS))"; $(PY) -m harness $$preset $(ARGS)

smoke: $(READY) ## every stage on the CPU with a tiny model: shows that the chain works, measures nothing
	@set -f; $(PY) -m harness experiment=smoke $(ARGS)

report: $(READY) ## tables and plots of a run again: make report RUN=results/NAME
	@test -n "$(RUN)" || { echo "error: name the run: make report RUN=results/NAME" >&2; exit 2; }
	@$(PY) -m reports "$(RUN)" $(ARGS)

publish: $(READY) ## a run's shareable files into results/published/: make publish RUN=results/NAME
	@test -n "$(RUN)" || { echo "error: name the run: make publish RUN=results/NAME" >&2; exit 2; }
	@test -f "$(RUN)/manifest.json" -a -f "$(RUN)/ttft.csv" || { echo "error: $(RUN) is no finished run" >&2; exit 2; }
	@! grep -q '"smoke": true' "$(RUN)/manifest.json" || { echo "error: $(RUN) is a smoke run, which measures nothing" >&2; exit 2; }
	@case "$(RUN)" in *results/published/*) echo "error: $(RUN) is published already" >&2; exit 2;; esac
	@to="results/published/$$(basename "$(RUN)")"; \
		test ! -e "$$to" || { echo "error: $$to exists, which publishing $(RUN) would write over: give its folder another name, or remove that one first" >&2; exit 2; }; \
		mkdir -p "$$to"; cp "$(RUN)"/manifest.json "$(RUN)"/*.csv "$$to"/; \
		$(PY) -m harness.output.provenance "$$to" || true; $(PY) -m reports "$$to" >/dev/null; \
		$(PY) -m harness.stored.sums; echo "published: $$to (commit it, and SHA256SUMS beside it)"

bench-kernels: $(READY) ## each kernel alone, and the model's errors and replays, on a CUDA GPU: make bench-kernels ARGS="--model llama3_8b"
	@$(PY) -m cases.runtime.kernels.bench $(ARGS) | awk '{ print | "cat 1>&2" } sub(/^Kernels: /, "")' | xargs -r $(PY) -m reports.kernels

paper: $(READY) ## published tables, figures, audit and claims beside the measured runs, into results/paper/report/
	$(PY) -m reports.paper $(ARGS)

lint: $(READY) ## formatting, lint and types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

audit: $(READY) ## known vulnerabilities of the versions in constraints.txt, by pip-audit in an environment of its own
	@test -x .venv-audit/bin/pip-audit || { python3 -m venv .venv-audit && .venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1; }
	@$(PY) -m tests.audit .venv-audit/bin/pip-audit constraints.txt

test: $(READY) ## all tests that need no GPU, two files at a time: JOBS=4 for more
	$(PY) -m pytest -m "not gpu" $$($(PY) -c "import xdist" 2>/dev/null && printf '%s' '-n $(JOBS) --dist loadfile') --faults tests/FAULTS.md $(ARGS)

test-kills: $(READY) ## runs killed at 100 points and 150 random times, a disk full at 60: all go on (an hour; ARGS="-n 2" halves it)
	KILLS=$(KILLS) PAGES=60 $(PY) -m pytest -m kills --faults tests/FAULTS_KILLS.md $(ARGS)

test-gpu: $(READY) ## the tests that need a CUDA GPU
	$(PY) -m pytest -m gpu --faults tests/FAULTS_GPU.md $(ARGS)

test-gpu-faults: $(READY) ## of those, the few that break what the GPU does and write tests/FAULTS_GPU.md: two minutes
	$(PY) -m pytest -m "gpu and faults" --faults tests/FAULTS_GPU.md $(ARGS)

test-slurm: $(READY) ## a sweep through a real SLURM on the loopback, jobs requeued; needs slurm-wlm and munge
	@$(PY) -m tests.slurm $(ARGS)

soak: $(READY) ## 100,000 requests at a served engine, and what they leave in it: make soak ARGS="--device cuda --requests 20000"
	$(PY) -m tests.soak $(ARGS)

wheels: $(READY) ## wheels that a GPU machine without network lacks, into .whl/: make wheels FOR=3.12, the Python there (OFFLINE="names")
	@rm -f $(COMPILED:%=.whl/%-*.whl)  # of another Python: pip takes none of the folder beside such a one
	$(PY) -m pip wheel --quiet --no-deps -c constraints.txt -w .whl $(OFFLINE)
	$(PY) -m pip download --quiet --no-deps --only-binary=:all: -c constraints.txt $(if $(FOR),--python-version $(FOR)) -d .whl $(COMPILED)

clean: ## remove the environments, engines' too, caches and wheels; results stay
	rm -rf .venv .venv-* .whl .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
