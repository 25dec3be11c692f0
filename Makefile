# make quickstart   train and sample a DDPM on digits, in its own environment
# make txt2img      emoji of a text: PROMPT="red heart"
# make test         the default test suite, in its own environment
# make test-slow    the tests that it leaves out: large networks, more scripts
# make test-oldest  the core's tests on the oldest packages it supports
# make lint         style and types
# make lock         renew constraints.txt from the newest releases

PYTHON ?= python3
QUICK := .venv
TEST := .venv-test
OLDEST := .venv-oldest
# PyTorch is a peer that tests compare with. Its CPU build carries a local
# version on Linux, so that no package index can answer with the CUDA build.
TORCH := $(shell grep '^torch==' constraints.txt)
ifeq ($(shell uname -s),Linux)
TORCH := $(TORCH)+cpu
endif
TORCH_INDEX := https://download.pytorch.org/whl/cpu

# The lower bounds in setup.cfg of the core, and of two extras it may use.
LOWEST := $(shell sed -n '/^install_requires/,/^$$/p; /^ode =/,/^experiments/p' \
  setup.cfg | grep -o '[a-z][a-z-]*>=[0-9.]*' | sed 's/>=/==/')

.PHONY: quickstart txt2img test test-slow test-oldest lint lock clean

# Two virtual devices, one a core, split the batch: a quarter faster than one.
# Huge pages save page faults (on glibc; ignored elsewhere).
quickstart: $(QUICK)/ready
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 JAX_NUM_CPU_DEVICES=2 \
	  $(QUICK)/bin/python -m experiments.quickstart

PROMPT ?= red heart
WEIGHTS ?= experiments/ldm/weights/openmoji

txt2img: $(QUICK)/ready
	$(QUICK)/bin/python -m experiments.ldm.sample --weights "$(WEIGHTS)" \
	  --prompt "$(PROMPT)" --guidance 3 --steps 20 --out runs/txt2img

test: $(TEST)/ready
	$(TEST)/bin/python -m pytest -n 2 --dist worksteal

test-slow: $(TEST)/ready
	$(TEST)/bin/python -m pytest -m slow

test-oldest: $(OLDEST)/ready
	$(OLDEST)/bin/python -m pytest -n 2 $(addprefix tests/, masked \
	  diffusion/test_processes.py diffusion/test_loop.py \
	  diffusion/test_predictions.py nn/test_beit.py nn/test_ddpm_unet.py \
	  training/test_training_checkpoints.py training/test_training_loop.py \
	  training/test_training_optimizers.py training/test_training_parallel.py)

lint: $(TEST)/ready
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/mypy jaxgen experiments

$(QUICK)/ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(QUICK)
	$(QUICK)/bin/pip install -q -c constraints.txt -e '.[experiments]'
	touch $@

$(TEST)/ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(TEST)
	$(TEST)/bin/pip install -q '$(TORCH)' || \
	  $(TEST)/bin/pip install -q '$(TORCH)' --extra-index-url $(TORCH_INDEX)
	$(TEST)/bin/pip install -q -c constraints.txt -e '.[test,parity]'
	touch $@

$(OLDEST)/ready: setup.cfg
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install -q $(LOWEST) pytest pytest-xdist hypothesis
	touch $@

lock: $(TEST)/ready
	$(TEST)/bin/pip install -q -U --upgrade-strategy eager '$(TORCH)' \
	  -e '.[test,parity]'
	$(TEST)/bin/pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean:
	rm -rf $(QUICK) $(TEST) $(OLDEST) build dist *.egg-info
