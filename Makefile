# Two commands do everything on a fresh machine with Python 3.11 or later and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-all test-deep test-gpu check bench clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# What `make demo` needs: ONNX Runtime, torch and the digits.
$(VENV)/demo.stamp: pyproject.toml constraints.txt noise_kernels/noise.c | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e '.[demo]'
	touch $@

# And on top of that, what the tests need.
$(VENV)/dev.stamp: $(VENV)/demo.stamp
	$(PIP) install -q -c constraints.txt -e '.[demo,dev,calibrate,energy]'
	touch $@

# Every part that can be installed on a machine without a GPU.
$(VENV)/all.stamp: $(VENV)/dev.stamp
	$(PIP) install -q -c constraints.txt -e '.[demo,dev,calibrate,energy,ray,rtx,cuda-build]'
	$(PIP) uninstall -q -y amdsmi # comes with zeus, and without an AMD GPU it keeps Ray from loading
	touch $@

demo: $(VENV)/demo.stamp
	$(BIN)/edgecut demo --output demo

# Two workers share two processors: with more threads each they only get into each other's way.
test test-deep: export OMP_NUM_THREADS := 1

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not deep and not gpu"

# Also what needs root, a compiler, or packages of Debian or npm.
test-all: $(VENV)/all.stamp
	$(MAKE) test
	$(MAKE) test-deep

# What `make test` leaves out; links, faults and clusters have the machine to themselves.
APART := tests/runtime/faults tests/runtime/test_ray.py tests/runtime/test_tunnel.py
test-deep: $(VENV)/all.stamp
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "deep and not gpu" $(APART:%=--ignore=%)
	$(BIN)/python -m pytest -q -m "deep and not gpu" $(APART)

# What needs a GPU; a result of its own, never part of the others.
test-gpu: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -q -m gpu

# mypy follows no editable install and takes no folder whose name has a dash, so it gets a link called edgecut.
check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	mkdir -p .check && ln -sfn .. .check/edgecut
	cd .check && ../$(BIN)/mypy --config-file ../pyproject.toml edgecut

# What learns on data that the package does not bring runs where DATA names its folder.
bench: $(VENV)/all.stamp
	cd benchmarks && ../$(BIN)/python regret.py --again
	cd benchmarks && for file in [a-z]*.py; do \
	  grep -q __main__ $$file || continue; \
	  case $$file in published_networks.py|serving_servers.py|regret.py|regret_server.py|regret_worker.py|learning_*.py|privacy_*.py) continue ;; esac; ../$(BIN)/python $$file || exit 1; \
	done
	cd benchmarks && ../$(BIN)/python serving.py --soak 900
ifdef DATA
	cd benchmarks && ../$(BIN)/python learning_time.py --data "$(DATA)/mnist.npz"
	cd benchmarks && ../$(BIN)/python learning_table.py --data-folder "$(DATA)"
	cd benchmarks && ../$(BIN)/python privacy_table.py --data-folder "$(abspath $(DATA))"
	cd benchmarks && ../$(BIN)/python privacy_page.py
endif

clean:
	rm -rf $(VENV) .check .cache build dist *.egg-info
