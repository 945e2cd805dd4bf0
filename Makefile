# Two commands do everything from a fresh clone: `make scan` and `make test`.
# Both create .venv when it is missing; they need only Python >= 3.11 and make.
PYTHON ?= python3
# One thread: at these sizes nothing is lost, and spinning threads cost up to a hundred times more beside a busy process.
export OMP_NUM_THREADS ?= 1

.PHONY: scan test docs lint types clean
.DELETE_ON_ERROR:

# The stamp is written last, so an interrupted installation is done again.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

scan: .venv/.installed  ## install, then profile the bundled tiny model on the CPU
	.venv/bin/onelayer scan

test: .venv/.installed  ## install, then run the tests
	HF_HUB_OFFLINE=1 .venv/bin/python -m pytest -n 2 --dist loadfile

# The variable silences an advertisement that mkdocs-material prints for what may come after mkdocs 1.
docs: .venv/.installed  ## install, then build the documentation into site/; its search needs a server: python -m http.server -d site
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

lint: .venv/.installed  ## style, and that chapters import only from those below them
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/lint-imports

types: .venv/.installed
	.venv/bin/mypy

clean:
	rm -rf .venv build dist site src/*.egg-info
