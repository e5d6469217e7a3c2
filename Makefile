# A fresh machine needs Python 3.11 or later, make and bash; all else is set up in .venv.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin

.PHONY: demo test check benchmark clean

demo: $(VENV)/installed build/weights/resshift_realsrx4_s15_v2.pth
	$(RUN)/python sample.py -i examples -o results --scale 4 --task realsrx4 --cache build/weights

test: $(VENV)/installed
	$(RUN)/python -m pytest

check: $(VENV)/installed
	$(RUN)/ruff check . && $(RUN)/ruff format --check . && $(RUN)/mypy

benchmark: $(VENV)/installed
	$(RUN)/python -m benchmarks.sampling --json build/sampling.json
	$(RUN)/python -m benchmarks.degradation --json build/degradation.json
	$(RUN)/python -m benchmarks.training --json build/training.json

# Untrained weights of the released size and form, until trained ones ship with the package.
build/weights/resshift_realsrx4_s15_v2.pth: | $(VENV)/installed
	$(RUN)/python examples/stand_in.py build/weights

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet --upgrade pip
	$(RUN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build results
