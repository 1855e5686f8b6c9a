# Two commands from a fresh clone: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check format results peers clean

demo: .venv/.installed
	$(BIN)/infusion run digits

test: .venv/.developer
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

check: .venv/.developer
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright

format: .venv/.developer
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Tables of README.md, drawn from results/.
results: .venv/.developer
	$(BIN)/python results/tables.py

# What `infusion bench` compares with. Both ask for torchvision, which must not enter.
peers: .venv/.developer
	$(PIP) --no-deps -r benchmarks/peers.txt

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $@

# curvlinops and backpack ask for torchvision, which must not enter: no dependencies.
.venv/.developer: .venv/.installed tests/oracles.txt
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps -r tests/oracles.txt
	touch $@

clean:
	rm -rf .venv runs dist build
