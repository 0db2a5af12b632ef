# SPDX-License-Identifier: Apache-2.0
# Two commands do everything on a fresh Debian or Ubuntu: `make demo` and `make test`. The rest is for those who build.
PREFIX ?= /usr/local
BUILD ?= build
DESTDIR ?=
CMAKE_ARGS ?=

.PHONY: all demo test quick-test install wheel bench fuzz sanitize rules format lint clean help

all: ## build the library and the command (build/dropin)
	@cmake -S . -B $(BUILD) $$(command -v ninja >/dev/null 2>&1 && [ ! -f $(BUILD)/Makefile ] && echo -G Ninja) -DCMAKE_INSTALL_PREFIX=$(PREFIX) $(CMAKE_ARGS) >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@rm -f $(BUILD).log
	@cmake --build $(BUILD) --parallel

demo: ## install what is missing, build, compare the attention parts on the built-in text
	@scripts/setup.sh build
	@$(MAKE) --no-print-directory all CMAKE_ARGS="-DDI_TESTS=OFF $(CMAKE_ARGS)"
	$(BUILD)/dropin compare attention --plot attention.svg

test: ## the same set-up, then every test
	@scripts/setup.sh test
	@scripts/test.sh

quick-test: all ## the C tests alone
	@ctest --test-dir $(BUILD) --output-on-failure -j 2

install: all ## install to PREFIX (DESTDIR is honoured)
	@DESTDIR=$(DESTDIR) cmake --install $(BUILD) --prefix $(PREFIX)

wheel: ## one Python wheel that needs nothing of the machine (build-wheel/dist)
	@scripts/setup.sh wheel
	@BUILD=$(BUILD) scripts/wheel.sh

bench: all ## every benchmark, with PyTorch's beside ours
	@scripts/bench.sh

fuzz: ## every fuzzer for a minute
	@scripts/fuzz.sh 60

sanitize: ## the C tests under the address and undefined-behaviour sanitizers
	@scripts/test.sh sanitize

rules: ## the house rules
	@scripts/rules.sh

format: ## format every C file
	@clang-format -i $$(git ls-files '*.c' '*.h')

lint: all ## clang-tidy over the library
	@clang-tidy -p $(BUILD) --quiet $$(git ls-files 'src/*.c' | grep -vE '_(plain|fast)\.c$$')

clean: ## remove the build folders
	@rm -rf $(BUILD) build-*

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 14
