# The GPU's trainer as several processes, each with a simulated GPU: one curve for every number and stage.
source "$(dirname "$0")/lib.sh"
trainer=$BUILD/train_gpt2sim
source "$SOURCE/tests/programs/processes.sh"

make_text() {
  for i in $(seq 1 100); do echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17))."; done >text.txt
}
model="--data text.txt --layers 3 --heads 2 --channels 32 --seq-len 16 --tokenizer bytes --sample-tokens 3 --prompt F --timeout 120"
flags="$model --batch-size 2 --total-batch-tokens 128 --dropout 0.1 --steps 6 --save-every 3 --eval-every 6 --eval-steps 3"

# one_curve PRECISION BOUND: the curve is the same for every number of processes and stage.
# shellcheck disable=SC2086
one_curve() {
  local precision=$1 bound=$2 how parameters stage sent
  make_text
  expect_ok $trainer $flags --precision $precision --run $precision-1
  for how in '2 0' '2 1' '2 2' '2 3' '4 3'; do
    expect_ok processes ${how% *} $flags --precision $precision --zero ${how#* } --run "$precision-${how/ /-}"
    same_curve $precision-1 "$precision-${how/ /-}" $bound
  done
  # The traffic of each step: 2 N elements, with the padding of a tiny vocabulary; and its share sent during computing.
  parameters=$(grep -o '"parameters":[0-9]*' $precision-2-0/metrics.jsonl | cut -d: -f2)
  for stage in 0 1; do
    sent=$(grep -o '"sent_elements":[0-9]*' $precision-2-$stage/metrics.jsonl | cut -d: -f2 | uniq -c)
    awk -v N="$parameters" 'NR != 1 || $1 != 6 || $2 < 2 * N || $2 > 2.3 * N { bad = 1 } END { exit bad || NR != 1 }' <<<"$sent" ||
      die "stage $stage, $parameters parameters, sent (steps, elements): $sent"
    [ "$(grep -cE '"sent_beside_computing":(0|1|[0-9.]+e-)' $precision-2-$stage/metrics.jsonl)" = 6 ] || die "the share sent during computing is missing"
  done
  # The same bits when repeated; and from a checkpoint from which another number of processes continues.
  expect_ok processes 2 $flags --precision $precision --zero 3 --run again
  same_state $precision-2-3 again
  rm -rf again/checkpoints/step_000006 && ln -sfn checkpoints/step_000003 again/latest
  expect_ok processes 4 --run again --resume --zero 2
  same_curve $precision-1 again $bound
  rm -rf again
}

test_fp32() {
  one_curve fp32 1e-5
}

test_bf16() {
  one_curve bf16 4e-3  # half a unit in the last place of a logit of 1
}

# An average of the weights, and memory.
# shellcheck disable=SC2086
test_average_and_memory() {
  make_text
  expect_ok processes 2 $flags --zero 2 --ema 0.9 --run average
  expect_ok processes 2 $flags --memory --zero 3
  expect_output '^gathered parameters '
  expect_output '^gradients to sum '
}

# Moments in bf16 draw the same numbers in every stage: one curve, and the bits of a run that is resumed.
# shellcheck disable=SC2086
test_moments() {
  make_text
  expect_ok $trainer $flags --precision fp32 --moments bf16 --run 1
  for how in '2 0' '2 1' '2 2 --loss-chunk 7' '2 3'; do
    expect_ok processes ${how%% *} $flags --precision fp32 --moments bf16 --zero ${how#* } --run "on-${how:2:1}"
    same_curve 1 "on-${how:2:1}" 1e-5
  done
  cp -r on-2 again
  rm -rf again/checkpoints/step_000006 && ln -sfn checkpoints/step_000003 again/latest
  expect_ok processes 2 --run again --resume
  same_state on-2 again
}

# By variables, without a launcher.
# shellcheck disable=SC2086
test_variables() {
  make_text
  expect_ok processes 2 $flags --precision fp32 --zero 1 --run fp32-2-1
  export MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + RANDOM % 20000)) WORLD_SIZE=2 WROUGHT_TOKEN=$RANDOM WROUGHT_JOIN_TIMEOUT=30
  RANK=1 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 $trainer $flags --precision fp32 --zero 1 --run variables >other 2>&1 &
  expect_ok env RANK=0 LOCAL_RANK=0 LOCAL_WORLD_SIZE=2 $trainer $flags --precision fp32 --zero 1 --run variables
  wait
  same_state fp32-2-1 variables
  expect_error 1 "its WROUGHT_TOKEN is not rank 0's|got no answer" env WROUGHT_JOIN_TIMEOUT=2 RANK=1 WROUGHT_TOKEN=stale $trainer $flags --run no
  expect_error 1 'MASTER_ADDR is not set' env -u MASTER_ADDR RANK=1 $trainer $flags --run no
}

run_tests "$@"
