# apps/launch/slurm.sbatch, and elastic.sh under srun, with stand-ins for Slurm's programs: the GPU trainer takes ranks from
# Slurm's variables; a job that is told to stop saves, is requeued and resumes.
source "$(dirname "$0")/lib.sh"
[ -x "$BUILD/train_gpt2sim" ] || { echo "skipped: train_gpt2sim was not built"; exit 77; }
trap '[ ! -s "$TMP/tasks" ] || xargs -r kill -KILL <"$TMP/tasks" 2>/dev/null || true; wait || true; rm -rf "$TMP"' EXIT

make_slurm() {  # stand-ins for Slurm's programs, and a text
  mkdir bin
  # Like the real srun: the highest exit code, all end with the first that fails, and SIGTERM becomes SIGKILL for tasks.
  cat >bin/srun <<'END'
#!/usr/bin/env bash
n=$SLURM_NTASKS
while :; do
  case $1 in -n) n=$2; shift 2 ;; --*) shift ;; *) break ;; esac
done
export SLURM_STEP_NUM_TASKS=$n SLURM_STEP_NODELIST=here
pids=() code=0
for ((i = 0; i < n; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$i "$@" &
  pids+=($!)
done
printf '%s\n' "${pids[@]}" >tasks
trap 'kill -KILL "${pids[@]}"' TERM
for pid in "${pids[@]}"; do
  status=0
  wait "$pid" || status=$?
  [ "$status" -le "$code" ] || code=$status
done
rm tasks
exit "$code"
END
  cat >bin/scontrol <<'END'
#!/usr/bin/env bash
case $1 in
  show) echo 127.0.0.1 && echo elsewhere ;;
  *) echo "$*" >>queue ;;
esac
END
  printf '#!/usr/bin/env bash\n[ "$*" = "--signal=TERM 4711" ] && xargs kill -TERM <tasks\n' >bin/scancel
  chmod +x bin/*
  for i in $(seq 1 100); do
    echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17)) and says: hello, friends."
  done >text.txt
}
export PATH=$TMP/bin:$PATH OMP_NUM_THREADS=1 CUDASIM_THREADS=1
export SLURM_JOB_ID=4711 SLURM_JOB_NODELIST='node[1-2]' SLURM_NTASKS=2 SLURM_JOB_NAME=test SLURM_SUBMIT_DIR=$TMP
export TRAINER=$BUILD/train_gpt2sim
trainer=$BUILD/train_gpt2sim
source "$SOURCE/tests/programs/processes.sh"
flags="--data text.txt --layers 1 --heads 2 --channels 16 --seq-len 16 --tokenizer bytes --sample-tokens 0 --eval-every 0
  --eval-steps 2 --batch-size 1 --total-batch-tokens 32 --precision fp32 --warmup-steps 2 --schedule constant --lr 2e-4"
job=$SOURCE/apps/launch/slurm.sbatch
begun() { grep -q '"loss"' "$1/metrics.jsonl"; }
saved() { [ -s "$1/latest/trainer_state.json" ]; }
wait_for() { # wait_for COMMAND...: waits 20 s at most
  for _ in $(seq 1 200); do
    if "$@" 2>/dev/null; then return; fi
    sleep 0.1
  done
  cat out
  die "not within 20 s: $*"
}

# The job stops, is requeued, and resumes.
# shellcheck disable=SC2086
test_job() {
  make_slurm
  expect_ok "$TRAINER" $flags --steps 12 --run one
  RUN=two bash "$job" $flags --steps 12 >out 2>&1 &
  pid=$!
  wait_for begun two
  kill -TERM $pid
  wait $pid || { cat out; die "exit $? after SIGTERM"; }
  grep -qx 'requeue 4711' queue || { cat out; die "the job was not requeued"; }
  expect_output 'stopped and saved after step [0-9]+ of 12: back to the queue, restart 1 of at most 20'
  SLURM_RESTART_COUNT=1 RUN=two expect_ok bash "$job" $flags --steps 12
  expect_output 'continues from .*/two/checkpoints/step_'
  [ "$(wc -l <queue)" = 1 ] || die "a run that is done went back to the queue"
  grep -q '"ranks": 2' two/latest/trainer_state.json || die "not two processes"
  same_curve one two 1e-4
  # Errors are not requeued; lost processes are, but not for ever.
  RUN=no expect_error 2 'expected 0 to 3' bash "$job" $flags --steps 12 --zero 4
  [ "$(wc -l <queue)" = 1 ] || die "an error was requeued"
  RUN=no TRAINER=nothere expect_error 1 'nothere is missing' bash "$job"
  SLURM_RESTART_COUNT=20 RUN=lost bash "$job" $flags --steps 10000 >out 2>&1 &
  pid=$!
  wait_for begun lost
  kill -KILL "$(tail -n 1 tasks)"
  code=0
  wait $pid || code=$?
  [ $code = 137 ] || { cat out; die "exit $code instead of 137"; }
  expect_output 'a process was lost \(exit code 137\); not tried again after 20 restarts'
}

# elastic.sh under srun.
# shellcheck disable=SC2086
test_elastic() {
  make_slurm
  "$SOURCE/apps/launch/elastic.sh" -n 2 --launcher srun --wait 0 -- "$TRAINER" $flags --steps 40 --save-every 2 --run elastic >out 2>&1 &
  pid=$!
  wait_for saved elastic
  kill -KILL "$(tail -n 1 tasks)"
  wait_for grep -q 'restart 1 of at most 10 in 0 s: 1 processes instead of 2, from ' out
  wait $pid || { cat out; die "exit $?"; }
  expect_output 'done, after 1 restarts'
}

run_tests "$@"
