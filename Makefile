# Thin names for people; CMakeLists.txt has the build.
#   make train [DATA=file|folder|shakespeare] [ARGS="--steps 500 ..."]
MAKEFLAGS += --no-print-directory
BUILD ?= build
JOBS ?= $(shell nproc)
DATA ?=
ARGS ?=

.PHONY: all setup train test sanitize bench clean

all: setup
	@cmake -S . -B $(BUILD) > $(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@cmake --build $(BUILD) -j $(JOBS) --target programs

setup:
	@dev/setup.sh

train: all
ifeq ($(DATA),shakespeare)
	@dev/data/shakespeare.sh
	@$(BUILD)/train_gpt2 --data data/tinyshakespeare.txt $(ARGS)
else
	@$(BUILD)/train_gpt2 $(if $(DATA),--data "$(DATA)") $(ARGS)
endif

test: setup
	cmake -S . -B $(BUILD)
	cmake --build $(BUILD) -j $(JOBS)
	ctest --test-dir $(BUILD) -j $(JOBS) --output-on-failure

# The same tests under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: setup
	cmake -S . -B $(BUILD)-sanitize -DWROUGHT_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=RelWithDebInfo
	cmake --build $(BUILD)-sanitize -j $(JOBS)
	ctest --test-dir $(BUILD)-sanitize -j $(JOBS) --output-on-failure

bench: setup
	cmake -S . -B $(BUILD)
	cmake --build $(BUILD) -j $(JOBS) --target benchmarks
	@for b in $(BUILD)/bench_*; do echo "== $$b"; $$b; done

clean:
	rm -rf $(BUILD) $(BUILD)-sanitize $(BUILD).log
