# Everything a newcomer needs: `make run` to look at it, `make test` before a commit.
# DATA_DIR, PORT, ADMIN_EMAIL, ADMIN_PASSWORD and the other settings are read from the environment.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
CATALOGUES := $(wildcard locale/*/LC_MESSAGES/*.po locale/packages/*/LC_MESSAGES/*.po)
COMPILED := $(CATALOGUES:.po=.mo)
# Static checks read the settings; they must not touch the data of a portal that runs from this folder.
STATIC_ENV := DATA_DIR=$(CURDIR)/$(VENV)/check-data XDG_RUNTIME_DIR=$(CURDIR)/$(VENV)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check format bench messages lock

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

run: $(VENV)/.installed $(COMPILED)  ## Run the whole portal here; Ctrl-C stops it
	@exec $(BIN)/python manage.py run

test: check  ## All checks, then all tests on SQLite and the concurrent ones on PostgreSQL too
	$(BIN)/python -m pytest -n 2 --dist loadgroup
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m both_databases --db postgresql

check: $(VENV)/.dev $(COMPILED)  ## Everything that needs no running part: style, types, imports, migrations, translations
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(STATIC_ENV) $(BIN)/mypy
	$(BIN)/lint-imports
	$(STATIC_ENV) $(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python -m pytest --quiet tests/test_architecture.py tests/test_translations.py

format: $(VENV)/.dev  ## Put the source in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev $(COMPILED)  ## Measure against a bare baseline, as ratios
	$(BIN)/python -m bench

messages: $(VENV)/.dev  ## Bring the catalogues up to date with the source (needs gettext)
	@command -v xgettext >/dev/null || { echo "make messages needs gettext: apt install gettext" >&2; exit 1; }
	$(STATIC_ENV) $(BIN)/python manage.py makemessages --locale zh_Hans --no-location --no-wrap \
		--ignore '.*' --ignore 'var/*' --ignore 'tests/*' --ignore 'bench/*'

lock:  ## Resolve requirements*.in again (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
	uv pip compile --universal --python-version 3.11 --generate-hashes requirements.in -o requirements.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes requirements-dev.in -o requirements-dev.txt

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "This needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
		echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "Python's venv module is missing. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Making the virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# The lists are complete, so nothing has to be resolved; and most modules are never imported, so Python compiles what is.
INSTALL := install --require-hashes --no-deps --no-compile

$(VENV)/.installed: requirements.txt | $(VENV)/.made
	@echo "Installing what the portal needs"
	@$(PIP) $(INSTALL) -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.installed
	@echo "Installing what the tests need"
	@$(PIP) $(INSTALL) -r requirements-dev.txt
	@touch $@

# Babel's compiler, so that running the portal needs no gettext. It leaves out what is marked fuzzy.
%.mo: %.po | $(VENV)/.installed
	@$(BIN)/pybabel --quiet compile --input-file $< --output-file $@
