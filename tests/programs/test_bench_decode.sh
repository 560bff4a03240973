# The benchmark of decoding on a tiny model: every row is present with plausible numbers, bad input is refused. Speed is not
# tested.
source "$(dirname "$0")/lib.sh"
bench="$BUILD/bench_decode"
export OMP_NUM_THREADS=2

test_everything() {
  expect_ok "$bench" --model gpt2-nano --vocabulary 300 --rounds 1 --tokens 2 --sequences 2 --prompt 30
  for precision in fp32 bf16 int8; do
    expect_output "^$precision +[0-9.]+ +[0-9.]+ +[0-9.]+ % +[0-9.]+ +[0-9.]+ +[0-9]+ +[0-9]+ +[0-9]+$"
  done
  expect_output '^memory: [0-9.]+ GB/s, 2 threads$'
}

# What a precision costs: nothing in fp32, little in the others.
test_losses() {
  for _ in $(seq 1 150); do echo "abcdefgh ijkl mnop"; done >text.txt
  "$BUILD/train_gpt2" --data text.txt --run run --tokenizer chars --layers 1 --heads 2 --channels 32 --seq-len 32 --batch-size 8 \
    --steps 120 --lr 1e-2 --eval-every 0 --sample-tokens 0 >out || { cat out; die "no model to measure"; }
  expect_ok "$bench" --weights run/latest --text text.txt --rounds 0 --limit 500
  expect_output '^fp32 +[0-9.]+ +\+0.0000 +100.00 %$'
  for precision in bf16 int8; do
    expect_output "^$precision +[0-9.]+ +[-+]0.0[0-9]+ +(9[5-9]|100).[0-9]+ %$"
  done
}

test_refused() {
  expect_error 2 "model is 'gpt5'" "$bench" --model gpt5
  expect_error 2 precision "$bench" --precision fp8
  expect_error 2 weights "$bench" --text text.txt
  expect_error 2 rounds "$bench" --rounds -1
  expect_error 1 'nowhere' "$bench" --weights nowhere
}

run_tests "$@"
