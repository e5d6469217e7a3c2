# A fresh machine needs Python 3.11 or later, make and bash; all else is set up in .venv.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin

.PHONY: demo picture test check benchmark clean

demo: $(VENV)/installed
	$(RUN)/python sample.py -i examples -o results --cache build/cache

# That of the README, of the results of the demo.
picture: demo
	$(RUN)/python examples/picture.py examples results examples/pictures/restored.webp

test: $(VENV)/installed
	$(RUN)/python -m pytest

check: $(VENV)/installed
	$(RUN)/ruff check . && $(RUN)/ruff format --check . && $(RUN)/mypy

benchmark: $(VENV)/installed
	$(RUN)/python -m benchmarks.sampling --json build/sampling.json
	$(RUN)/python -m benchmarks.bundled --json build/bundled.json
	$(RUN)/python -m benchmarks.degradation --json build/degradation.json
	$(RUN)/python -m benchmarks.training --json build/training.json

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet --upgrade pip
	$(RUN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build results
