# apps/launch/elastic.sh: a run that loses a process continues with fewer, or with as many, from its checkpoint or,
# without one, from the beginning; errors are not retried; signals save and end the run.
source "$(dirname "$0")/lib.sh"
if ! command -v mpirun >/dev/null || ! ldd "$BUILD/train_gpt2" | grep libmpi >/dev/null; then
  echo "skipped: no mpirun, or train_gpt2 was built without MPI (libopenmpi-dev, openmpi-bin)"
  exit 77
fi
trainer=$BUILD/train_gpt2
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
source "$SOURCE/tests/programs/processes.sh"
steps_of() { sed -n 's/^  "step": \([0-9]*\).*/\1/p' "$1/latest/trainer_state.json"; }
steps_beyond() { [ "$(steps_of "$1")" -gt "$2" ]; }
job=''
trap '[ -z "$job" ] || kill -TERM "$job" 2>/dev/null || true; wait || true; rm -rf "$TMP"' EXIT

make_text() {
  for i in $(seq 1 400); do
    echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17)) and says: hello, friends."
  done >text.txt
}
model="--data text.txt --layers 2 --heads 2 --channels 24 --seq-len 16 --tokenizer bytes --sample-tokens 0 --eval-every 0
  --batch-size 2 --precision fp32 --schedule constant --lr 2e-4 --warmup-steps 5"
elastic() { # elastic -n N FLAGS... -- TRAINER'S FLAGS...
  local own=()
  while [ "$1" != -- ]; do own+=("$1"); shift; done
  shift
  ${as_job:+exec} "$SOURCE/apps/launch/elastic.sh" --wait 0 --launcher-args --oversubscribe "${own[@]}" -- "$trainer" "$@"
}
in_background() {
  as_job=1 elastic "$@" >out 2>&1 &
  job=$!
}
killed_rank() { # killed_rank RUN RANK: kill -9 for that rank, once the run has begun
  local pid
  for _ in $(seq 1 100); do
    for pid in $(pgrep -f -- "^$trainer .*--run $1( |\$)"); do
      [ "$(readlink "/proc/$pid/cwd")" = "$PWD" ] || continue  # of another test
      if tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | grep -x "OMPI_COMM_WORLD_RANK=$2" >/dev/null; then
        kill -KILL "$pid"
        return
      fi
    done
    sleep 0.1
  done
  die "no rank $2 of $1 to kill"
}
wait_for() { # wait_for COMMAND...: waits half a minute at most
  for _ in $(seq 1 300); do
    if "$@" 2>/dev/null; then return; fi
    kill -0 "$job" 2>/dev/null || { cat out; die "it ended before: $*"; }
    sleep 0.1
  done
  cat out
  die "not within half a minute: $*"
}
ended() { # ended CODES: waits for the background job; its code must be one of these
  local code=0
  wait "$job" || code=$?
  job=''
  [[ " $* " = *" $code "* ]] || { tr '\r' '\n' <out | grep -v 'step .* loss' | tail -40; die "exit $code instead of $*"; }
}

# 8 micro-batches per step: 4 processes, then 2. The curve is that of a run that lost no process. Each run continues
# until it is told to end, so that even a fast machine has not ended before its process is lost.
# shellcheck disable=SC2086
test_fewer() {
  make_text
  flags="$model --total-batch-tokens 256"
  in_background -n 4 -- $flags --steps 1000000 --run lost --save-every 20 --zero 2
  wait_for [ -s lost/latest/trainer_state.json ]
  killed_rank lost 3
  wait_for grep -Eq 'a process was lost \(exit code [0-9]+\); restart 1 of at most 10 in 0 s: 2 processes instead of 4, from .*/lost/checkpoints/step_' out
  first=$(steps_of lost)
  wait_for steps_beyond lost "$((first + 40))"
  kill -TERM "$job"
  ended 0
  last=$(($(steps_of lost) + 20))
  expect_ok elastic -n 2 -- --run lost --resume --steps $last
  expect_ok $trainer $flags --run one --steps $last
  same_curve one lost 1e-3
}

# A process lost before the first checkpoint: restart from the beginning, with the same batch.
# shellcheck disable=SC2086
test_no_checkpoint() {
  make_text
  in_background -n 2 -- $model --steps 1000000 --run early --save-every 0
  wait_for grep -q '"loss"' early/metrics.jsonl
  killed_rank early 1
  wait_for grep -q '1 processes instead of 2, from the beginning: it had no checkpoint yet' out
  wait_for grep -q '"loss"' early/metrics.jsonl
  grep -q '"total-batch-tokens":64' early/metrics.jsonl || die "a different batch after the restart"
  kill -TERM "$job"
  ended 0
  [ "$(grep -c '"loss"' early/metrics.jsonl)" = "$(steps_of early)" ] || die "not one loss for each step from the first on"
}

# Restarts with as many processes as before, but not for ever.
# shellcheck disable=SC2086
test_as_many() {
  make_text
  in_background -n 2 --keep-size --max-restarts 1 -- $model --steps 1000000 --run twice --save-every 20
  wait_for [ -s twice/latest/trainer_state.json ]
  killed_rank twice 1
  wait_for grep -q 'restart 1 of at most 1 in 0 s: 2 processes instead of 2' out
  first=$(steps_of twice)
  wait_for steps_beyond twice "$first"
  killed_rank twice 1
  ended 75 137  # depends on whether mpirun notices the killed process or the others first
  expect_output 'after 1 restarts, as many as --max-restarts allows: given up'

  # A program that fails once as if lost.
  printf '#!/bin/bash\nmkdir -p run && [ -e run/was_lost ] || { touch run/was_lost; exit 75; }\n' >lost_once && chmod +x lost_once
  expect_ok "$SOURCE/apps/launch/elastic.sh" -n 1 --keep-size --wait 0 -- ./lost_once --run run
  expect_output 'done, after 1 restarts'
}

# A signal ends it; errors are not retried.
# shellcheck disable=SC2086
test_ends() {
  make_text
  in_background -n 2 -- $model --steps 1000000 --run stopped --save-every 0
  wait_for grep -q '"loss"' stopped/metrics.jsonl
  kill -TERM "$job"
  ended 0
  expect_output 'a signal: the processes save and end'
  [ -s stopped/latest/trainer_state.json ] || die "nothing saved after SIGTERM"
  [ -z "$(pgrep -f -- "^$trainer .*--run stopped( |\$)")" ] || die "processes are left"
  # Errors are not retried.
  expect_error 1 'exit code 1 is an error, not a lost process' elastic -n 2 -- ${model/text.txt/nothere.txt} --run no --steps 10
  expect_error 2 'exit code 2 is an error, not a lost process' elastic -n 2 -- $model --run no --steps 10 --zero 4
  [ "$(grep -c 'elastic: 2 processes' "$TMP/out")" = 1 ] || die "it was started again"
  expect_error 1 'stopped already holds a run' elastic -n 2 -- $model --run stopped --steps 10
  expect_ok elastic -n 2 -- --run stopped --resume --steps "$(($(steps_of stopped) + 2))"
  expect_error 2 'has no --run' elastic -n 2 -- $model
  expect_error 2 "-n is 'x'" elastic -n x -- --run no
  expect_error 2 'expected mpirun, srun or ssh' elastic -n 2 --launcher rsh -- --run no
  expect_error 2 'nothere is not a program' "$SOURCE/apps/launch/elastic.sh" -n 2 -- nothere --run no
  expect_error 2 'the trainer and its flags come after --' "$SOURCE/apps/launch/elastic.sh" -n 2 "$trainer"
  [ ! -e no ] || die "something was left: $(ls -R no)"
}

# Machines that do not answer are left out.
# shellcheck disable=SC2086
test_machines() {
  make_text
  printf 'here slots=2\nnowhere slots=2\n' >hosts.txt
  printf '#!/bin/bash\n[ "$1" = here ]\n' >ssh && chmod +x ssh
  expect_error 1 'the machines that answer have 2 slots' elastic -n 4 --hosts hosts.txt --ssh ./ssh -- $model --run no --steps 10
  expect_output 'nowhere does not answer: left out'
  [ ! -e no ] || die "something was left: $(ls -R no)"
}

run_tests "$@"
