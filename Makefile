# Set-up, the main job and the checks. Every target sets up what it needs by itself.
#
#   make setup             the virtual environment alone; the others begin with it
#   make train             train the default on this machine, ends with the path of a report
#   make test              set up and run the tests (without those marked slow)
#   make test-slow         the tests marked slow
#   make robosuite         a second Python with robosuite, for the door opening tasks (2.6 GB)
#   make bench-peers       what `rl-system bench` compares this system with
#   make lint              ruff and mypy
#   make clean             remove the virtual environment and caches (never runs/)
#
# Variables: PYTHON (3.11 or newer), VENV (.venv), TORCH_INDEX (index to take torch from, for
# example https://download.pytorch.org/whl/cpu; empty: your pip's own), ARGS (added to `train`),
# ROBOSUITE_PYTHON (3.9 to 3.12, for `make robosuite`; PYTHON unless given; actors run in it if its
# minor version is that of PYTHON), REVERB_PYTHON
# (3.11, for `make bench-peers`; PYTHON unless given).

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
ARGS ?=
ROBOSUITE_PYTHON ?= $(PYTHON)
REVERB_PYTHON ?= $(PYTHON)
TORCH := torch==2.13.0
BIN := $(VENV)/bin
STAMP := $(VENV)/.rl-system-ready

.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow robosuite bench-peers lint clean graphics

help:
	@sed -n 's/^#   //p' Makefile

$(STAMP): setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rl-system needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	       "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "Could not make $(VENV). On Debian or Ubuntu: apt-get install -y python3-venv" >&2; \
	  rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --upgrade --quiet pip setuptools wheel
# torch by itself first: resolved together with the rest, pip may bring gigabytes of CUDA packages.
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

setup: $(STAMP)

# Drawing needs a GL library. It is installed where that is allowed, else the command is printed.
GL_PACKAGES := libegl1 libopengl0 libgl1-mesa-dri
graphics: $(STAMP)
	@if ! $(BIN)/python -m rl_system doctor --only graphics --quiet; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "No GL library can draw here: installing $(GL_PACKAGES)"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y -qq $(GL_PACKAGES) >/dev/null; } || true; \
	  fi; \
	  $(BIN)/python -m rl_system doctor --only graphics; \
	fi

train: graphics
	$(BIN)/python -m rl_system train default $(ARGS)

test: graphics
	$(BIN)/python -m pytest -m "not slow"

test-slow: graphics
	$(BIN)/python -m pytest -m slow

# robosuite's version limits exclude ours, so it gets a Python of its own. Its list is complete and
# exact, hence --no-deps: robosuite itself also asks for windows and a keyboard. Actors run in that
# Python too, which therefore gets Ray, torch and this project. Ray needs the same minor version.
ROBOSUITE_VENV := .venv-robosuite
ROBOSUITE_BIN := $(ROBOSUITE_VENV)/bin
ROBOSUITE_PINS := actors/environments/robosuite_process/requirements.txt
ROBOSUITE_STAMP := $(ROBOSUITE_VENV)/.rl-system-ready
ACTOR_PINS := actors/environments/robosuite_process/actor_requirements.txt
MINOR := import sys; print("%d.%d" % sys.version_info[:2])
$(ROBOSUITE_STAMP): $(ROBOSUITE_PINS) $(ACTOR_PINS) | $(STAMP)
	@$(ROBOSUITE_PYTHON) -c 'import sys; sys.exit(not (3, 9) <= sys.version_info < (3, 13))' || { \
	  echo "robosuite needs Python 3.9 to 3.12; $(ROBOSUITE_PYTHON) is" \
	       "$$($(ROBOSUITE_PYTHON) -V 2>&1). Name another one:" \
	       "make robosuite ROBOSUITE_PYTHON=python3.12" >&2; exit 1; }
	@test -x $(ROBOSUITE_BIN)/python || $(ROBOSUITE_PYTHON) -m venv $(ROBOSUITE_VENV) || { \
	  echo "Could not make $(ROBOSUITE_VENV). On Debian or Ubuntu:" \
	       "apt-get install -y python3-venv" >&2; \
	  rm -rf $(ROBOSUITE_VENV); exit 1; }
	$(ROBOSUITE_BIN)/python -m pip install --quiet --no-deps --only-binary :all: -r $(ROBOSUITE_PINS)
	@main=$$($(BIN)/python -c '$(MINOR)'); own=$$($(ROBOSUITE_BIN)/python -c '$(MINOR)'); \
	if [ "$$main" = "$$own" ]; then \
	  set -ex; \
	  $(ROBOSUITE_BIN)/python -m pip install --quiet --no-deps --only-binary :all: -r $(ACTOR_PINS); \
	  $(ROBOSUITE_BIN)/python -m pip install --quiet \
	    $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH); \
	  $(ROBOSUITE_BIN)/python -m pip install --quiet --no-deps -e .; \
	else \
	  echo "$(ROBOSUITE_VENV) has Python $$own and $(VENV) $$main: no actor can run in it. Train with" \
	       "environment.robosuite_simulator=process, or: rm -r $(ROBOSUITE_VENV) and make robosuite" \
	       "ROBOSUITE_PYTHON=python$$main"; \
	fi
	@touch $@

robosuite: graphics $(ROBOSUITE_STAMP)
	$(BIN)/python -m rl_system doctor --only robosuite
	$(BIN)/python -m pytest -q -m "not slow" -k TestEachRobot tests/actors/environments/test_robosuite.py

# `bench env` compares with the published package, which is a dependency too: the version that its
# adaptation was written for. `bench replay` compares with Reverb, whose TensorFlow limits NumPy to
# version 1, so it gets a Python of its own (1.3 GB).
REVERB_VENV := .venv-reverb
REVERB_BIN := $(REVERB_VENV)/bin
REVERB_PINS := benchmarks/peers/reverb_requirements.txt
REVERB_STAMP := $(REVERB_VENV)/.rl-system-ready
$(REVERB_STAMP): $(REVERB_PINS)
	@$(REVERB_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "The versions pinned for dm-reverb need Python 3.11; $(REVERB_PYTHON) is" \
	       "$$($(REVERB_PYTHON) -V 2>&1). Name another one:" \
	       "make bench-peers REVERB_PYTHON=python3.11" >&2; exit 1; }
	@test -x $(REVERB_BIN)/python || $(REVERB_PYTHON) -m venv $(REVERB_VENV) || { \
	  echo "Could not make $(REVERB_VENV). On Debian or Ubuntu:" \
	       "apt-get install -y python3-venv" >&2; \
	  rm -rf $(REVERB_VENV); exit 1; }
	$(REVERB_BIN)/python -m pip install --quiet --no-deps --only-binary :all: -r $(REVERB_PINS)
	@touch $@

bench-peers: $(STAMP) $(REVERB_STAMP)
	$(BIN)/python -m pip install --quiet distracting-control==0.1.1rc3

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(ROBOSUITE_VENV) $(REVERB_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
