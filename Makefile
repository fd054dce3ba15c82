# Everything runs in .venv, which the first target that needs it creates: only Python 3.11 has to be on the machine.
PYTHON ?= python3
WORKERS ?= 2

PY := .venv/bin/python
# The stamps carry a digest of what decides the installation, and of where it lies, so that a second call is quick.
KEY := $(shell (pwd; cat setup.cfg pyproject.toml constraints.txt) | cksum | cut -d ' ' -f 1)
DEMO_STAMP := .venv/.installed-$(KEY)
DEV_STAMP := .venv/.installed-dev-$(KEY)
PROMPT ?= a red circle moving right on a white background

.PHONY: help demo test check docs bundle cards format clean

help:
	@echo "make demo     install into .venv and make demo.mp4 from a sentence (PROMPT=... for another)"
	@echo "make test     the test suite (ARGS=... goes to pytest)"
	@echo "make check    formatting, lint, types, import rules, fresh bundles and cards, documentation without warnings"
	@echo "make docs     the documentation, into build/site"
	@echo "make bundle   write pipelines/ anew: the single-file code that a Hub repository carries"
	@echo "make cards    write model_cards/ anew"
	@echo "make format   let ruff rewrite what make check would complain about"
	@echo "make clean    remove .venv and what the tools left"

demo: $(DEMO_STAMP)
	$(PY) -m diffusers_show1 generate "$(PROMPT)" -o demo.mp4 --overwrite
	@echo "The video is in $(CURDIR)/demo.mp4, how it was made in $(CURDIR)/demo.json"

test: $(DEV_STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) $(ARGS)

check: $(DEV_STAMP)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	$(PY) -m diffusers_show1.hub.bundle --check
	$(PY) -m diffusers_show1.hub.cards --check
	$(MAKE) docs

docs: $(DEV_STAMP)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

bundle: $(DEMO_STAMP)
	$(PY) -m diffusers_show1.hub.bundle

cards: $(DEMO_STAMP)
	$(PY) -m diffusers_show1.hub.cards --media

format: $(DEV_STAMP)
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

clean:
	rm -rf .venv build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(PY):
	$(PYTHON) -m venv .venv

# The dev installation holds all that the plain one does.
$(DEMO_STAMP): | $(PY)
	test -e $(DEV_STAMP) || $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(DEV_STAMP): | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
