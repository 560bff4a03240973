# Thin names for people; CMakeLists.txt has the build.
#   make train [DATA=file|folder|shakespeare] [ARGS="--steps 500 ..."]      on the GPU if there is one
#   make cuda [CUDA_ARCH=90a]                                               the GPU's programs and tests
#   make sim                                                                train_gpt2sim: the GPU's trainer without a GPU
#   make check-kernels                                                      every kernel's memory accesses checked, without a GPU
#   make bench-sim                                                          each kernel version's demands on memory
MAKEFLAGS += --no-print-directory
BUILD ?= build
JOBS ?= $(shell nproc)
DATA ?=
ARGS ?=

VERDICT ?=
CUDA_ARCH ?=

.PHONY: all configure setup train book cuda sim check-kernels bench-sim test test-all test-deep sanitize bench clean

all: configure
	@cmake --build $(BUILD) -j $(JOBS) --target programs

configure: setup
	@mkdir -p $(BUILD)
	@cmake -S . -B $(BUILD) $(if $(CUDA_ARCH),"-DCUDA_ARCH=$(CUDA_ARCH)") > $(BUILD)/configure.log 2>&1 || \
	  { cat $(BUILD)/configure.log; exit 1; }
	@sed -n 's/^-- \(left out: .*\)/\1/p' $(BUILD)/configure.log

setup:
	@dev/setup.sh

# Builds only the trainer that it runs: train_gpt2cu where CMake found a GPU and nvcc, else train_gpt2.
train: configure
	@cmake --build $(BUILD) -j $(JOBS) --target trainer
ifeq ($(DATA),shakespeare)
	@dev/data/shakespeare.sh
	@$(BUILD)/`cat $(BUILD)/trainer.txt` --data data/tinyshakespeare.txt $(ARGS)
else
	@$(BUILD)/`cat $(BUILD)/trainer.txt` $(if $(DATA),--data "$(DATA)") $(ARGS)
endif

# The figures of the book "Build a Large Language Model (From Scratch)" next to ours (docs/book): VERDICT=path to its text,
# else downloaded, like GPT-2's vocabulary if it is neither in data/ nor in $WROUGHT_DATA. ARGS=--quick: without training.
book: configure
	@cmake --build $(BUILD) -j $(JOBS) --target book train_gpt2
	@$(if $(VERDICT),,dev/data/the_verdict.sh)
	@[ -e data/gpt2.tiktoken ] || [ -n "$$WROUGHT_DATA" ] || dev/data/gpt2_tokenizer.sh
	@$(BUILD)/book $(if $(VERDICT),--text "$(VERDICT)") $(ARGS)

# build/train_gpt2cu and build/test_kernels_cu, to run on a GPU.
cuda: configure
	@grep -q "^-- left out: CUDA programs" $(BUILD)/configure.log && exit 1 || true
	@cmake --build $(BUILD) -j $(JOBS) --target cuda_programs

# build/train_gpt2sim: the GPU's trainer, run on the CPU by dev/cudasim.
sim: configure
	@cmake --build $(BUILD) -j $(JOBS) --target train_gpt2sim

# The kernels' tests, instrumented: races, uninitialised reads, bounds, alignment (docs/cudasim.md).
check-kernels: configure
	@cmake --build $(BUILD) -j $(JOBS) --target test_checked
	@ctest --test-dir $(BUILD) -j $(JOBS) -L '^checked$$' --output-on-failure

# Finds out quickly whether all is well: each kernel, format and program once, in minutes (docs/testing.md).
test:
	@dev/setup.sh tests
	cmake -S . -B $(BUILD)
	cmake --build $(BUILD) -j $(JOBS) --target quick_tests
	ctest --test-dir $(BUILD) -j $(JOBS) -L '^quick$$' --output-on-failure

# The rest of what a change must pass: every size and schedule, instrumented kernels, machine code, whole programs.
test-all:
	@dev/setup.sh tests
	cmake -S . -B $(BUILD)
	cmake --build $(BUILD) -j $(JOBS)
	ctest --test-dir $(BUILD) -j $(JOBS) -LE '^quick$$' --output-on-failure

# Hours: every fault of every kernel, all schedules at all sizes, large shapes, thousands of damaged files under sanitizers.
test-deep:
	@dev/test_deep.sh

# The same tests under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize:
	@dev/setup.sh tests
	cmake -S . -B $(BUILD)-sanitize -DWROUGHT_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=RelWithDebInfo
	cmake --build $(BUILD)-sanitize -j $(JOBS)
	ctest --test-dir $(BUILD)-sanitize -j $(JOBS) --output-on-failure

# Each version of each kernel, counted in cudasim: tables, $(BUILD)/bench_sim.json and a page, $(BUILD)/bench_sim.html.
bench-sim: configure
	@cmake --build $(BUILD) -j $(JOBS) --target bench_kernels_sim
	@$(BUILD)/bench_kernels_sim --json $(BUILD)/bench_sim.json --html $(BUILD)/bench_sim.html
	@echo "the page: $(BUILD)/bench_sim.html"

# The CPU's kernels and steps, $(BUILD)/bench_cpu.json (minutes); with a GPU and nvcc also its kernels' times, as a page too.
bench: all
	@cmake --build $(BUILD) -j $(JOBS) --target benchmarks
	@if [ "`cat $(BUILD)/trainer.txt`" = train_gpt2cu ]; then \
	  cmake --build $(BUILD) -j $(JOBS) --target bench_kernels_cu && \
	  $(BUILD)/bench_kernels_cu --json $(BUILD)/bench.json --html $(BUILD)/bench.html && \
	  echo "the page: $(BUILD)/bench.html"; \
	else echo "left out: the kernels' times (no GPU with nvcc here; make bench-sim counts instead)"; fi
	@$(BUILD)/bench_cpu --json $(BUILD)/bench_cpu.json
	@$(BUILD)/make_stories --out $(BUILD)/stories.txt
	@$(BUILD)/tokenize train --tokenizer bpe:4096 --data $(BUILD)/stories.txt --out $(BUILD)/stories.json
	@$(BUILD)/bench_tokenizer train 4096 $(BUILD)/stories.txt
	@$(BUILD)/bench_tokenizer encode $(BUILD)/stories.json $(BUILD)/stories.txt
	@$(BUILD)/bench_dataloader
	@$(BUILD)/bench_sampler
	@$(BUILD)/bench_decode

clean:
	rm -rf $(BUILD) $(BUILD)-sanitize
