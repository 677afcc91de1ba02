# make demo and make test need Python >= 3.11, g++ and make; everything else goes into .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3.14 python3,$(shell command -v $(p) 2>/dev/null)))
VENV   ?= .venv
OUT    ?= out
JOBS   ?= 4

PY    := $(VENV)/bin/python
STAMP := $(VENV)/.installed
LOCKS := requirements.lock requirements-dev.lock requirements-models.lock requirements-cuda.lock
# The locks name every dependency, so pip has nothing to resolve; a test holds them complete.
PIP_INSTALL = $(PY) -m pip install --no-deps --disable-pip-version-check --quiet --progress-bar off

CXX_SOURCES = $(shell find torch_utils training tracking -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
# Two test processes on two cores: one thread each.
ONE_THREAD = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: help demo demo-network test test-fast test-gpu test-reference lint format bench bench-speed bench-gpu venv clean distclean

help:  ## what one can make
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

demo: $(STAMP)  ## animate a portrait: out/demo.mp4 and out/demo.png
	@$(PY) gen_videos.py demo --out "$(OUT)"

RECIPE ?= out/demo-network
demo-network: $(STAMP)  ## make the shipped network from nothing (hours); goes on where it was stopped
	@$(PY) dataset_tool.py synth $(RECIPE)/heads --identities 1400 --frames-per-clip 7 --labels painted
	@$(PY) pretrain.py --preset demo --data $(RECIPE)/heads --out $(RECIPE)/clebs
	@$(PY) train.py --preset demo --data $(RECIPE)/heads --out $(RECIPE)/run --clebs $(RECIPE)/clebs/clebs-latest.safetensors
	@$(PY) dataset_tool.py synth $(RECIPE)/tracked --identities 1040 --frames-per-clip 7
	@$(PY) train.py --preset demo_follow --data $(RECIPE)/tracked --out $(RECIPE)/follow --init-from $(RECIPE)/run/network-latest.safetensors
	@$(PY) -m training.checkpoints.publish $(RECIPE)/follow/network-latest.safetensors $(RECIPE)/half.safetensors --full --start $(RECIPE)/run/network-latest.safetensors
	@$(PY) train.py --preset demo_finish --data $(RECIPE)/tracked --out $(RECIPE)/finish --init-from $(RECIPE)/half.safetensors
	@$(PY) -m training.checkpoints.publish $(RECIPE)/finish/network-latest.safetensors $(RECIPE)/demo.safetensors
	@$(PY) calc_metrics.py heads --network $(RECIPE)/demo.safetensors --data $(RECIPE)/heads --split test --out $(RECIPE)/demo.json

test: $(STAMP)  ## all tests that a CPU can run
	@$(ONE_THREAD) $(PY) -m pytest -q -n $(JOBS) --durations=10 $(ARGS)

test-fast: $(STAMP)  ## the tests that take seconds
	@$(ONE_THREAD) $(PY) -m pytest -q -n $(JOBS) -m "not slow" $(ARGS)

test-gpu: $(STAMP)  ## the CUDA tests; fails when there is no CUDA device
	@EXPORT3D_REQUIRE_CUDA=1 $(PY) -m pytest -q -m cuda $(ARGS)

test-reference: $(STAMP)  ## compare with mediapipe and dlib (installs both; mediapipe may contact its vendor)
	@$(PIP_INSTALL) -r requirements-reference.lock
	@$(ONE_THREAD) EXPORT3D_REFERENCE=1 $(PY) -m pytest -q -m reference $(ARGS)

lint: $(STAMP)  ## ruff, mypy, who may import whom, clang-format; changes nothing
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports --no-cache --no-logo
	@sources="$(CXX_SOURCES)"; if [ -n "$$sources" ]; then $(VENV)/bin/clang-format --dry-run -Werror $$sources; fi

format: $(STAMP)  ## let ruff and clang-format rewrite the files
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .
	@sources="$(CXX_SOURCES)"; if [ -n "$$sources" ]; then $(VENV)/bin/clang-format -i $$sources; fi

bench: $(STAMP)  ## time and count the presets
	@$(PY) -m benchmarks.presets

bench-speed: $(STAMP)  ## measure renderer, frames and training step (a quiet machine, minutes); writes docs/performance.md
	@$(PY) -m benchmarks.render --json benchmarks/results/render.json
	@$(PY) -m benchmarks.frame --preset base512 --preset paper256 --preset demo --compare --json benchmarks/results/frame.json
	@$(PY) -m benchmarks.frame --preset base512 --preset demo --compile --json benchmarks/results/frame_compiled.json
	@MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 $(PY) -m benchmarks.frame --preset base512 --compare --json benchmarks/results/frame_malloc.json
	@$(PY) -m benchmarks.train_step --steps 200 --json benchmarks/results/train_step.json
	@$(PY) -m benchmarks.report

bench-gpu: $(STAMP)  ## measure renderer, frames and training step on the CUDA device
	@$(PY) -m benchmarks.render --device cuda --json benchmarks/results/render-cuda.json
	@$(PY) -m benchmarks.frame --device cuda --preset demo --preset paper256 --preset base512 --compare --json benchmarks/results/frame-cuda.json
	@$(PY) -m benchmarks.train_step --device cuda --json benchmarks/results/train_step-cuda.json

venv: $(STAMP)  ## only install

$(STAMP): $(LOCKS)
	@test -n "$(PYTHON)" || { echo "Error: no python3 was found; install Python 3.11 or newer, or give PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Error: $(PYTHON) is older than Python 3.11; give a newer one with PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing into $(VENV) (once; a few minutes)"
	@test -x "$(PY)" || "$(PYTHON)" -m venv "$(VENV)"
	@$(PIP_INSTALL) $(foreach lock,$(LOCKS),-r $(lock))
	@touch $@

clean:  ## remove what tests and linters leave behind
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## remove .venv too
	@rm -rf "$(VENV)"
