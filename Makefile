# Thin names for people; CMakeLists.txt has the build.
#   make train [DATA=file|folder|shakespeare] [ARGS="--steps 500 ..."]
MAKEFLAGS += --no-print-directory
BUILD ?= build
JOBS ?= $(shell nproc)
DATA ?=
ARGS ?=

.PHONY: all setup train test sanitize bench clean

all: setup
	@mkdir -p $(BUILD)
	@cmake -S . -B $(BUILD) > $(BUILD)/configure.log 2>&1 || { cat $(BUILD)/configure.log; exit 1; }
	@sed -n 's/^-- \(left out: .*\)/\1/p' $(BUILD)/configure.log
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

bench: all
	@cmake --build $(BUILD) -j $(JOBS) --target benchmarks
	@$(BUILD)/make_stories --out $(BUILD)/stories.txt
	@$(BUILD)/tokenize train --tokenizer bpe:4096 --data $(BUILD)/stories.txt --out $(BUILD)/stories.json
	@$(BUILD)/bench_tokenizer train 4096 $(BUILD)/stories.txt
	@$(BUILD)/bench_tokenizer encode $(BUILD)/stories.json $(BUILD)/stories.txt
	@$(BUILD)/bench_dataloader

clean:
	rm -rf $(BUILD) $(BUILD)-sanitize
