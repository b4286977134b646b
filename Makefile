# `make setup` once, then `make demo`. Everything runs in .venv; nothing is installed elsewhere.

PYTHON ?= python3
TORCH := $(shell grep '^torch==' constraints.txt)
BIN := .venv/bin
STAMP := .venv/.setup-done

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-oldest lint bench clean

help:
	@echo "make setup      create .venv (Python 3.11 to 3.13) with everything in it"
	@echo "make demo       simulated robot, policy, alignment, report: the whole system"
	@echo "make test       all tests"
	@echo "make test-fast  the tests without the slow ones and without nodes, in a minute"
	@echo "make test-oldest  the tests of what cameras send with the oldest OpenCV, of the network with the oldest transformers"
	@echo "make lint       ruff, codespell, mypy"
	@echo "make bench      every number that the documents quote"
	@echo "make clean      remove .venv, caches and build folders"

setup: $(STAMP)

# torch first: it decides between CPU and CUDA build, and nothing after it may pull another.
$(STAMP): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v[:2] <= (3, 13) else \
	  f"setup needs Python 3.11 to 3.13, {sys.executable} is {v[0]}.{v[1]}. Name another: make setup PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[ros,bench,dev]'
	@touch $@

# ROS 2 on this machine only, with the profile that camera images need. (The tests set the same in test/conftest.py.)
demo bench: export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
demo bench: export FASTRTPS_DEFAULT_PROFILES_FILE ?= $(CURDIR)/config/fastdds_profile.xml
demo bench: export AMENT_PREFIX_PATH ?= $(CURDIR)/.venv

demo: setup
	$(BIN)/vla-align demo

test: setup
	$(BIN)/python -m pytest

test-fast: setup
	$(BIN)/python -m pytest -m "not slow and not ros" --hypothesis-profile fast

# OpenCV's versions differ in what they make of a torn picture: the same tests at the other end of the range.
# 4.6 is Ubuntu 24.04's; its wheels need numpy 1, which Python 3.13 has not. transformers moves parts of SigLIP and DINOv2.
OLDEST := .venv/oldest
OLDEST_TESTS := test/observation/test_images.py test/observation/test_codecs.py test/observation/test_resize.py
OLDEST_TRANSFORMERS_TESTS := test/policy/test_foreign_paths.py test/policy/test_golden.py test/policy/test_features.py

test-oldest: setup
	test -x $(OLDEST)/bin/python || $(BIN)/python -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet $$(grep -E '^(rosbags|pytest|pytest-timeout|hypothesis|PyYAML|pydantic)==' constraints.txt) \
	  $$($(BIN)/python -c 'import sys; print(*("opencv-python-headless==4.6.0.66", "numpy==1.26.4") \
	  if sys.version_info < (3, 13) else ("opencv-python-headless==4.10.0.84", "numpy==2.1.3"))')
	PYTHONPATH=$(CURDIR) $(OLDEST)/bin/python -m pytest $(OLDEST_TESTS)
	test -d $(OLDEST)/transformers || \
	  $(BIN)/python -m pip install --quiet --no-deps --target $(OLDEST)/transformers transformers==5.20.0
	PYTHONPATH=$(OLDEST)/transformers $(BIN)/python -m pytest $(OLDEST_TRANSFORMERS_TESTS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf .venv build install log *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
