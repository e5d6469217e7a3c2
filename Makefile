# A fresh machine needs Python 3.11 or later, make and bash; all else is set up in .venv.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin

.PHONY: demo picture test check benchmark clean

demo: $(VENV)/restoring
	$(RUN)/python sample.py -i examples -o results --cache build/cache

# Those of the README, of the results of the demo.
picture: demo
	$(RUN)/python sample.py -i examples/whole -o results/whole --cache build/cache
	$(RUN)/python examples/picture.py examples results examples/pictures

test: $(VENV)/developing
	$(RUN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/developing
	$(RUN)/ruff check . && $(RUN)/ruff format --check . && $(RUN)/mypy

benchmark: $(VENV)/developing
	$(RUN)/python -m benchmarks.sampling --json build/sampling.json
	$(RUN)/python -m benchmarks.bundled --json build/bundled.json
	$(RUN)/python -m benchmarks.degradation --json build/degradation.json
	$(RUN)/python -m benchmarks.training --json build/training.json

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet --upgrade pip

# What restoring needs, and no more.
$(VENV)/restoring: pyproject.toml | $(VENV)/bin/python
	$(RUN)/pip install --quiet --editable .
	touch $@

$(VENV)/developing: pyproject.toml | $(VENV)/bin/python
	$(RUN)/pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/restoring

clean:
	rm -rf $(VENV) build results
