# `make run` and `make test` each do the whole set-up: a Python of 3.11 or newer is all they ask for.
PYTHON ?= python3
BIN = .venv/bin
STORE ?= data
# Processes that `make test` runs tests in: half of their time is waiting.
TESTS_AT_ONCE ?= 3

.PHONY: run test lint stack stack-down stack-status deploy bench bench-peers bench-all clean constraints peers

run: .venv/ready
	$(BIN)/python -m imageshards.sample .venv/sample
	$(BIN)/python -m flows.pets --images .venv/sample/images.tar.gz --annotations .venv/sample/annotations.tar.gz --store $(STORE)

test: .venv/ready
	$(BIN)/python -m pytest --numprocesses=$(TESTS_AT_ONCE)

lint: .venv/ready
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

# PostgreSQL, a Prefect server, a worker and a Ray head on this machine; .venv/bin/python -m deploy.stack --help
stack: .venv/ready
	$(BIN)/python -m deploy.stack up

stack-down: .venv/ready
	$(BIN)/python -m deploy.stack down

stack-status: .venv/ready
	$(BIN)/python -m deploy.stack status

# to the Prefect server of PREFECT_API_URL
deploy: .venv/ready
	$(BIN)/python -m deploy.resources && $(BIN)/prefect --no-prompt deploy --all

bench: .venv/ready
	$(BIN)/python -m benchmarks.throughput && $(BIN)/python -m benchmarks.differences

bench-peers: .venv-peers/ready

bench-all: bench
	for name in resolutions nodes growth upload validation index_scale fixed_cost; do $(BIN)/python -m benchmarks.$$name || exit 1; done

clean:
	rm -rf .venv .venv-peers data .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info

constraints: .venv/ready
	$(BIN)/uv pip compile --system-certs --universal --python-version 3.11 --all-extras --no-annotate --no-header --upgrade pyproject.toml -o constraints.txt

peers: .venv/ready
	$(BIN)/uv pip compile --system-certs --universal --python-version 3.11 --no-annotate --no-header --upgrade benchmarks/peers.in -o benchmarks/peers.txt

# Ray, torch and torchvision are those of .venv: a path file leads there.
.venv-peers/ready: .venv/ready benchmarks/peers.txt
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-peers
	$(BIN)/uv pip install --quiet --system-certs --python .venv-peers/bin/python --requirement benchmarks/peers.txt
	.venv-peers/bin/python -c 'import sys, sysconfig; open(sysconfig.get_path("purelib") + "/main.pth", "w").write(sys.argv[1])' "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	touch $@

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "imageshards needs Python 3.11 or newer; name it with make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet uv -c constraints.txt
	$(BIN)/uv pip install --quiet --system-certs --python $(BIN)/python --compile-bytecode --constraint constraints.txt --editable '.[dev]'
	touch $@
