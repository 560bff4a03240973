# The comparison with other programs: one tiny round, without missing programs; stand-ins for the others.
source "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1
peers="$SOURCE/dev/bench/peers.sh"
export MODEL=gpt2-nano B=2 T=16 STEPS=3 ROUNDS=1 PYTHON=./no_torch
unset LLMC_DIR

make_stand_ins() {
  printf '#!/bin/sh\nexit 1\n' >no_torch
  # Claims to have torch, with steps of 7, 100 and 200 ms; bf16 fails.
  cat >torch <<'END'
#!/bin/sh
case "$*" in
  *"import torch"*) exit 0 ;;
  *bf16*) echo "no bf16 here"; exit 1 ;;
esac
echo "torch 9.9, 2 threads, BLAS /usr/lib/blas/libblas.so.3, 99 parameters, fp32"
for ms in 7.00 100.00 200.00; do echo "step 1/3 | loss 1.000000 | $ms ms"; done
END
  chmod +x no_torch torch
}

make_shard() {
  for i in $(seq 1 300); do echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17))."; done >text.txt
  expect_ok "$BUILD/tokenize" shard --tokenizer bytes --data text.txt --val-fraction 0 --out shards
}
row='[0-9.]+ \| [0-9., ]+ \| [0-9]+ \|'

# Without a shard, without other programs.
test_alone() {
  make_stand_ins
  expect_ok "$peers"
  expect_output '^no SHARD: the built-in stories'
  expect_output '^left out: PyTorch \(.*/no_torch has no torch; PYTHON=\.\.\. names another interpreter\)$'
  expect_output '^left out: llm.c \(LLMC_DIR is not set\)$'
  expect_output '^round 1: wrought fp32 [0-9.]+ ms'
  expect_output '^gpt2-nano, B=2 T=16, 1 rounds of 2 steps'
  expect_output "^\| wrought \| fp32 \| $row 1.00 \|$"
  if grep -q '^left out: wrought bf16' out; then
    expect_output '^left out: wrought bf16 \(error: .*AVX512-BF16'
  else
    expect_output "^\| wrought \| bf16 \| $row 1.00 \|$"
  fi
}

# The same on a CPU without products in bf16.
test_without_bf16() {
  make_stand_ins
  make_shard
  WROUGHT_ISA=avx2 expect_ok "$peers" shards/train.bin
  grep -q 'no SHARD' out && die "the shard was not used"
  expect_output '^left out: wrought bf16 \(error: --precision bf16 needs a CPU with AVX512-BF16'
}

# With stand-ins for the other programs.
test_stand_ins() {
  make_stand_ins
  make_shard
  mkdir llm.c
  PYTHON=./torch LLMC_DIR=llm.c expect_ok "$peers" shards/train.bin 2
  expect_output '^PyTorch: torch 9.9, 2 threads, BLAS /usr/lib/blas/libblas.so.3$'
  expect_output '^warning: that BLAS is the unoptimised reference'
  expect_output '^left out: PyTorch bf16 \(it failed: no bf16 here\)$'
  expect_output '^left out: llm.c \(.*/llm.c/train_gpt2 is not there; make train_gpt2 builds it\)$'
  expect_output '^round 2: .*PyTorch fp32 150.0 ms$'
  expect_output '^\| PyTorch \| fp32 \| 150.0 \| 150.0, 150.0 \| 213 \| [0-9.]+ \|$' # 32 tokens in 0.15 s; the first step left out
  [ "$(grep -c 'left out: PyTorch bf16' out)" = 1 ] || die "a failed measurement is retried"
  grep -q '^| PyTorch | bf16' out && die "a failed measurement is in the table"
  cp torch llm.c/train_gpt2
  LLMC_DIR=llm.c expect_ok "$peers" shards/train.bin
  expect_output '^left out: llm.c \(it has GPT-2 124M, B=4 and T=64, and no others\)$'
}

test_refused() {
  make_stand_ins
  make_shard
  expect_ok "$peers" --help
  expect_output 'LLMC_DIR'
  expect_error 2 'no option --rounds' "$peers" --rounds 3
  expect_error 2 '3 arguments' "$peers" a b c
  expect_error 2 "ROUNDS is 'many'" "$peers" shards/train.bin many
  expect_error 2 "ROUNDS is '0'" env ROUNDS=0 "$peers"
  expect_error 2 "B is '-1'" env B=-1 "$peers"
  expect_error 2 "T is '1.5'" env T=1.5 "$peers"
  expect_error 2 'STEPS is 1, expected at least 2' env STEPS=1 "$peers"
  expect_error 1 'no shard nowhere.bin' "$peers" nowhere.bin
  expect_error 1 'train_gpt2 is not there; make builds it' env BUILD=/nowhere "$peers"
  expect_error 1 'text.txt is not a token shard; build/tokenize shard makes one' "$peers" text.txt
  expect_error 1 'train_gpt2 failed' env MODEL=gpt3 "$peers" shards/train.bin
}

run_tests "$@"
