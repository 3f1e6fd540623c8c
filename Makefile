# convjit: build, test, install. `make demo` and `make check` are all a newcomer needs.
.DEFAULT_GOAL := all
MAKEFLAGS += --no-builtin-rules
SHELL := /bin/sh

BUILD   ?= build
PREFIX  ?= /usr/local
DESTDIR ?=
CC      ?= cc
ifeq ($(origin CC),default)
CC := cc
endif
AR      ?= ar
LUA     ?= lua5.4

VERSION := 0.1.0
SOVER   := 0

WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wno-unused-parameter
CFLAGS  ?= -O2 -g
CFLAGS_ALL = $(CFLAGS) -std=c11 -D_GNU_SOURCE -DCONVJIT_BUILD -DCONVJIT_VERSION='"$(VERSION)"' $(WARN) $(WERROR) -fPIC \
    -fvisibility=hidden -pthread -Iruntime -I$(BUILD) $(LUA_CFLAGS)

# Programs take Lua in, so that they run where none is installed. The shared library needs liblua5.4.so: Debian's archive is
# not position-independent.
LUA_CFLAGS := $(shell pkg-config --cflags lua5.4 2>/dev/null)
LUA_SO     := $(shell pkg-config --libs lua5.4 2>/dev/null)
LUA_A      := $(wildcard $(shell pkg-config --variable=libdir lua5.4 2>/dev/null)/liblua5.4.a)
SYS_LIBS   := -ldl -lm -lpthread
LIBS       := $(or $(LUA_A),$(LUA_SO)) $(SYS_LIBS)

SRC  := $(filter-out runtime/main.c $(wildcard runtime/main_*.c),$(wildcard runtime/*.c)) $(wildcard runtime/emu/*.c)
MAIN := runtime/main.c $(wildcard runtime/main_*.c)
OBJ  := $(SRC:%.c=$(BUILD)/%.o) $(BUILD)/embedded.o
MAIN_OBJ := $(MAIN:%.c=$(BUILD)/%.o)
GEN  := $(sort $(wildcard gen/*.lua gen/schedules/*.lua templates/*)) $(sort $(wildcard runtime/emu/device*.h))

.PHONY: all
all: $(BUILD)/convjit $(BUILD)/libconvjit.so $(BUILD)/libconvjit.a

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

# gen/ and templates/ and the emulated device's headers, as C arrays, with their digest
$(BUILD)/embedded.c: runtime/embed.lua $(GEN)
	@mkdir -p $(@D)
	$(LUA) runtime/embed.lua $@ $(GEN)
$(BUILD)/embedded.o: $(BUILD)/embedded.c
	$(CC) $(CFLAGS_ALL) -c -o $@ $<

$(BUILD)/libconvjit.a: $(OBJ)
	@rm -f $@
	$(AR) rcs $@ $(OBJ)
$(BUILD)/libconvjit.so: $(OBJ)
	$(CC) -shared -Wl,-soname,libconvjit.so.$(SOVER) -o $@.$(VERSION) $(OBJ) $(LUA_SO) $(SYS_LIBS)
	ln -sf libconvjit.so.$(VERSION) $@.$(SOVER)
	ln -sf libconvjit.so.$(SOVER) $@
$(BUILD)/convjit: $(MAIN_OBJ) $(BUILD)/libconvjit.a
	$(CC) $(LDFLAGS) -o $@ $(MAIN_OBJ) $(BUILD)/libconvjit.a $(LIBS)

-include $(OBJ:.o=.d) $(MAIN_OBJ:.o=.d)

# Stand-ins for NVIDIA's libraries, for tests (tests/fake/fake.h)
FAKE_NVRTC := $(BUILD)/tests/fake/libnvrtc.so
FAKE_CUDA  := $(BUILD)/tests/fake/libcuda.so
.PHONY: fakes
fakes: $(FAKE_NVRTC) $(FAKE_CUDA)
$(BUILD)/tests/fake/lib%.so: tests/fake/%.c tests/fake/fake.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -shared -Wl,-soname,lib$*-fake.so -o $@ $<

# Every tests/unit/X.c is a program of its own over the static library.
UNIT_TESTS := $(patsubst %.c,$(BUILD)/%,$(sort $(wildcard tests/unit/*.c)))
$(BUILD)/tests/unit/%: tests/unit/%.c tests/check.h $(BUILD)/libconvjit.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -Itests -MMD -MP $(LDFLAGS) -o $@ $< $(BUILD)/libconvjit.a $(LIBS)
-include $(UNIT_TESTS:=.d)
.PHONY: check-unit
check-unit: fakes $(UNIT_TESTS)
	BUILD=$(BUILD) tests/run $(UNIT_TESTS)

# Programs over the static library too: kernels on the emulated device, and the generator's own tests in its own Lua.
EMU_TESTS := $(patsubst %.c,$(BUILD)/%,$(sort $(wildcard tests/emu/*.c)))
LUA_TESTS := $(patsubst %.c,$(BUILD)/%,$(sort $(wildcard tests/lua/*.c)))
$(EMU_TESTS) $(LUA_TESTS): $(BUILD)/%: %.c tests/check.h $(BUILD)/libconvjit.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -Itests -MMD -MP $(LDFLAGS) -o $@ $< $(BUILD)/libconvjit.a $(LIBS)
-include $(EMU_TESTS:=.d) $(LUA_TESTS:=.d)
.PHONY: check-emu check-lua
check-emu: $(EMU_TESTS)
	BUILD=$(BUILD) tests/run $(EMU_TESTS)
check-lua: $(LUA_TESTS)
	BUILD=$(BUILD) tests/run $(LUA_TESTS)

# Does a wrong kernel get caught? A twentieth of the mutants of every kernel, or what MUTATE_FLAGS says (tests/mutate/mutate.c).
MUTATE := $(BUILD)/tests/mutate/mutate
MUTATE_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(sort $(wildcard tests/mutate/*.c)))
MUTATE_FLAGS ?= --fraction 0.05
$(MUTATE_OBJ): CFLAGS_ALL += -Itests
-include $(MUTATE_OBJ:.o=.d)
$(MUTATE): $(MUTATE_OBJ) $(BUILD)/libconvjit.a
	$(CC) $(LDFLAGS) -o $@ $(MUTATE_OBJ) $(BUILD)/libconvjit.a $(LIBS)
.PHONY: mutate
mutate: $(MUTATE)
	$(MUTATE) --out $(BUILD)/mutate $(MUTATE_FLAGS)

# Generated source against golden texts; review the diff that golden-update makes.
GOLDEN_TESTS := tests/golden/run.sh
.PHONY: check-golden golden-update
check-golden: $(BUILD)/convjit
	BUILD=$(BUILD) tests/run $(GOLDEN_TESTS)
golden-update: $(BUILD)/convjit
	BUILD=$(BUILD) $(GOLDEN_TESTS) update

# Fuzzing of all that reads text. `check-fuzz`: a fixed number of seeded mutations of the corpus, with any compiler that has
# sanitizers; `fuzz`: clang's libFuzzer, FUZZ_SECONDS for each target.
FUZZ_NAMES   := problem benchdnn expr kernel
FUZZ_SRC     := $(addprefix runtime/,status.c text.c problem.c benchdnn.c expr.c kernel.c tensor_map.c)
FUZZ_TESTS   := $(FUZZ_NAMES:%=$(BUILD)/tests/fuzz/fuzz_%)
FUZZ_FLAGS   := -g -O1 -fno-omit-frame-pointer -fno-sanitize-recover=all
FUZZ_SECONDS ?= 60
FUZZ_CC      ?= clang
$(BUILD)/tests/fuzz/fuzz_%: tests/fuzz/%.c tests/fuzz/driver.c tests/fuzz/fuzz.h $(FUZZ_SRC) runtime/internal.h runtime/convjit.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(FUZZ_FLAGS) -fsanitize=address,undefined -DFUZZ_NAME='"$*"' -o $@ $< tests/fuzz/driver.c $(FUZZ_SRC)
$(BUILD)/tests/libfuzzer/%: tests/fuzz/%.c tests/fuzz/fuzz.h $(FUZZ_SRC) runtime/internal.h runtime/convjit.h
	@mkdir -p $(@D)
	$(FUZZ_CC) $(CFLAGS_ALL) $(FUZZ_FLAGS) -fsanitize=fuzzer,address,undefined -o $@ $< $(FUZZ_SRC)
.PHONY: check-fuzz fuzz
check-fuzz: $(FUZZ_TESTS)
	tests/run $(FUZZ_TESTS)
fuzz: $(FUZZ_NAMES:%=$(BUILD)/tests/libfuzzer/%)
	for name in $(FUZZ_NAMES); do \
	    mkdir -p $(BUILD)/tests/libfuzzer/corpus-$$name && \
	    $(BUILD)/tests/libfuzzer/$$name -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=$(BUILD)/tests/libfuzzer/$$name- \
	        $(BUILD)/tests/libfuzzer/corpus-$$name tests/fuzz/corpus/$$name || exit 1; \
	done

# NVRTC that tests/deps.sh put into .deps/, for all that runs below
NVRTC_PRIVATE := $(firstword $(wildcard $(CURDIR)/.deps/nvidia/*/lib/libnvrtc.so.*))
ifneq ($(NVRTC_PRIVATE),)
export CONVJIT_NVRTC ?= $(NVRTC_PRIVATE)
endif

# The examples are programs like a user's: the public header and the shared library, nothing else.
EXAMPLES := $(patsubst %.c,$(BUILD)/%,$(sort $(wildcard examples/*.c)))
.PHONY: examples
examples: all $(EXAMPLES)
$(BUILD)/examples/%: examples/%.c examples/example.h examples/png.h runtime/convjit.h $(BUILD)/libconvjit.so
	@mkdir -p $(@D) $(BUILD)/include
	cp runtime/convjit.h $(BUILD)/include/
	$(CC) $(CFLAGS) -std=c11 -D_GNU_SOURCE $(WARN) $(WERROR) -I$(BUILD)/include $(LDFLAGS) -o $@ $< -L$(BUILD) -lconvjit \
	    -Wl,-rpath,'$$ORIGIN/..' -lm -ldl -lpthread

# Tests of the command line and of the examples are scripts.
CLI_TESTS := $(sort $(wildcard tests/cli/*.sh))
.PHONY: check-cli
check-cli: all examples fakes $(MUTATE)
	BUILD=$(BUILD) tests/run $(CLI_TESTS)

# The Python package: without a GPU; of PyTorch's part only what the emulated device can do, and that only if PyTorch is there.
PYTHON_TESTS := tests/python/arrays.py tests/python/packaging.sh tests/python/operator.sh
.PHONY: check-python
check-python: all fakes
	BUILD=$(BUILD) tests/run $(PYTHON_TESTS)

# On a machine with a GPU. Those in Python need PyTorch, too; BENCH_FLAGS is passed on (tests/bench/bench.py --help).
PYTHON    ?= python3
GPU_BIN   := $(patsubst %.c,$(BUILD)/%,$(sort $(wildcard tests/gpu/*.c)))
GPU_TESTS := $(GPU_BIN) $(sort $(wildcard tests/gpu/*.sh tests/gpu/*.py))
$(BUILD)/tests/gpu/%: tests/gpu/%.c tests/check.h $(BUILD)/libconvjit.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -Itests -MMD -MP $(LDFLAGS) -o $@ $< $(BUILD)/libconvjit.a $(LIBS)
-include $(GPU_BIN:=.d)
# Measurements in C, to be run by hand: make build/tests/bench/first_plan
$(BUILD)/tests/bench/%: tests/bench/%.c $(BUILD)/libconvjit.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -MMD -MP $(LDFLAGS) -o $@ $< $(BUILD)/libconvjit.a $(LIBS)
.PHONY: check-gpu bench
check-gpu: all $(GPU_BIN)
	BUILD=$(BUILD) tests/run $(GPU_TESTS)
bench: all
	@mkdir -p $(BUILD)/bench
	$(PYTHON) tests/bench/bench.py --lib $(BUILD)/libconvjit.so --out $(BUILD)/bench/results.json \
	    --chart $(BUILD)/bench/chart.png $(BENCH_FLAGS)

LIBS_PRIVATE := $(shell pkg-config --libs lua5.4 2>/dev/null) -ldl -lm -lpthread
.PHONY: install uninstall
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/lib/pkgconfig \
	    $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 755 $(BUILD)/convjit $(DESTDIR)$(PREFIX)/bin/
	install -m 644 runtime/convjit.h $(DESTDIR)$(PREFIX)/include/
	install -m 644 $(BUILD)/libconvjit.a $(DESTDIR)$(PREFIX)/lib/
	install -m 755 $(BUILD)/libconvjit.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/
	ln -sf libconvjit.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libconvjit.so.$(SOVER)
	ln -sf libconvjit.so.$(SOVER) $(DESTDIR)$(PREFIX)/lib/libconvjit.so
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@LIBS_PRIVATE@|$(LIBS_PRIVATE)|' \
	    runtime/convjit.pc.in >$(DESTDIR)$(PREFIX)/lib/pkgconfig/convjit.pc
	install -m 644 runtime/convjit.1 $(DESTDIR)$(PREFIX)/share/man/man1/
uninstall:
	cd $(DESTDIR)$(PREFIX) && rm -f bin/convjit include/convjit.h lib/libconvjit.a lib/libconvjit.so lib/libconvjit.so.$(SOVER) \
	    lib/libconvjit.so.$(VERSION) lib/pkgconfig/convjit.pc share/man/man1/convjit.1

# From a fresh checkout: what is missing is installed first, and a second make then sees it.
.PHONY: deps demo run-demo check check-all
deps:
	@tests/deps.sh
demo: deps
	@$(MAKE) -s --no-print-directory run-demo
run-demo: examples
	@BUILD=$(BUILD) examples/demo.sh
check:
	@tests/deps.sh tests
	@$(MAKE) --no-print-directory check-all
CHECK_PROGRAMS = $(UNIT_TESTS) $(LUA_TESTS) $(GOLDEN_TESTS) $(EMU_TESTS) $(CLI_TESTS) $(FUZZ_TESTS) $(PYTHON_TESTS) \
    tests/bench/bench.sh
check-all: all examples fakes $(MUTATE) $(CHECK_PROGRAMS)
	@BUILD=$(BUILD) LUA=$(LUA) tests/run $(CHECK_PROGRAMS)

.PHONY: clean
clean:
	rm -rf $(BUILD)
