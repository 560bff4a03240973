# Signals that ask to stop, and readers that close or do not read: the trainers and finetune finish the step, save and
# exit with 0, and the run continues from there to the same bits; a missing reader costs no step. Files that become
# shorter, and limits of the system, end a program with a message.
source "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1
trainer=$BUILD/train_gpt2 finetune=$BUILD/finetune
job=''
trap '[ -z "$job" ] || kill -KILL "$job" 2>/dev/null || true; wait || true; rm -rf "$TMP"' EXIT
signals="INT TERM HUP USR1 XCPU"
number_of() { kill -l "$1"; }

make_text() {
  for i in $(seq 1 400); do
    echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17)) and says: hello, friends."
  done >text.txt
}
flags="--data text.txt --layers 1 --heads 1 --channels 8 --seq-len 8 --tokenizer bytes --sample-tokens 0 --eval-every 0"
flags+=" --save-every 0 --batch-size 1 --precision fp32 --schedule constant --warmup-steps 0 --dropout 0.1"
for_ever="--steps 1000000"

# in_background COMMAND...: with the signals enabled that a shell's background jobs ignore. $job is the command itself.
in_background() {
  env --default-signal "$@" >out 2>&1 &
  job=$!
}
losses() { grep -c '"loss"' "$1/metrics.jsonl" || true; }
wait_for() { # wait_for COMMAND...: waits a minute at most
  for _ in $(seq 1 1200); do
    if "$@" 2>/dev/null; then return; fi
    kill -0 "$job" 2>/dev/null || { tail -5 out; die "it ended before: $*"; }
    sleep 0.05
  done
  tail -5 out
  die "not within a minute: $*"
}
reached() { [ -e "$1/metrics.jsonl" ] && [ "$(losses "$1")" -ge "$2" ]; } # reached RUN STEP
ended() { # ended CODES
  local code=0
  wait "$job" || code=$?
  job=''
  [[ " $* " = *" $code "* ]] || { tr '\r' '\n' <out | tail -5; die "exit $code instead of $*"; }
}
steps_of() { sed -n 's/^  "step": \([0-9]*\).*/\1/p' "$1/latest/trainer_state.json"; }
saved_all() { # saved_all RUN: its checkpoint is that of its last step
  [ "$(steps_of "$1")" = "$(losses "$1")" ] || die "$1 made $(losses "$1") steps and saved $(steps_of "$1")"
}
same_files() { # same_files A B FILES...
  local a=$1 b=$2 file
  shift 2
  for file in "$@"; do cmp "$a/latest/$file" "$b/latest/$file" || die "$file differs between $a and $b"; done
}

make_whole() {  # a run of $most + 2 steps, without a signal
  make_text
  most=20
  # shellcheck disable=SC2086
  expect_ok $trainer $flags --steps $((most + 2)) --run whole
}

make_base() {  # a model to finetune, and the data of each task
  make_text
  expect_ok "$trainer" --data text.txt --run base --tokenizer bytes --layers 1 --heads 1 --channels 8 --seq-len 32 --batch-size 1 \
    --steps 2 --eval-every 0 --sample-tokens 0 --val-fraction 0
  for i in $(seq 1 20); do printf 'pet\tthe cat %d sat\nother\tbuy %d now!\n' "$i" "$i"; done >pets.tsv
  {
    printf '[{"instruction":"say a","output":"a"}'
    for i in $(seq 1 19); do printf ',{"instruction":"say %d","output":"%d"}' "$i" "$i"; done
    echo ']'
  } >rows.json
  sed 's/"output":"\([^"]*\)"/"output":"\1","chosen":"\1","rejected":"no"/g' rows.json >preferences.json
  echo '{"prompt": "{instruction}", "input": "{input}", "response": " {output}"}' >short.json
}
declare -A data=([classify]=pets.tsv [instruct]=rows.json [dpo]=preferences.json)

make_pipes() {  # 5: a pipe whose reader has closed; 6 and `unread`: one whose reader never reads
  mkfifo lost unread
  exec 4<>lost 5>lost 4<&-
  exec 6<>unread
}

need_mpi() {
  if ! command -v mpirun >/dev/null || [[ $(ldd "$trainer") != *libmpi* ]]; then
    echo "skipped: no mpirun, or train_gpt2 was built without MPI (libopenmpi-dev, openmpi-bin)"
    exit 77
  fi
  export ASAN_OPTIONS=detect_leaks=0 # OpenMPI leaks some memory at its end
  export OMP_WAIT_POLICY=passive OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
}

# Each signal saves, and the run continues from there to the same bits.
# shellcheck disable=SC2086
each_signal_saves() { # each_signal_saves TRAINER PREFIX SIGNALS...: sets $most, the steps of the longest run
  local program=$1 prefix=$2 signal
  shift 2
  most=0
  for signal in "$@"; do
    in_background $program $flags $for_ever --run $prefix$signal
    wait_for reached $prefix$signal 3
    kill -s $signal $job
    ended 0
    grep -q "^stopped by signal $(number_of $signal) after step $(losses $prefix$signal); " out || { tail -3 out; die "SIG$signal is not reported"; }
    saved_all $prefix$signal
    [ "$(steps_of $prefix$signal)" -le $most ] || most=$(steps_of $prefix$signal)
  done
  expect_ok $program $flags --steps $((most + 2)) --run ${prefix}whole
  for signal in "$@"; do
    expect_ok $program --run $prefix$signal --resume --steps $((most + 2))
    same_files ${prefix}whole $prefix$signal model.safetensors optimizer.safetensors
  done
}

test_gpu_trainer() {
  [ -x "$BUILD/train_gpt2sim" ] || { echo "skipped: this build has no cudasim"; exit 77; }
  make_text
  each_signal_saves "$BUILD/train_gpt2sim" sim HUP USR1 XCPU
}

# shellcheck disable=SC2086
test_trainer() {
  make_text
  each_signal_saves $trainer '' $signals
}

# finetune, which is not resumed: the model is that of a run with this number of steps.
# shellcheck disable=SC2086
test_finetune() {
  make_base
  for task in classify instruct dpo; do
    own="--batch-size 2 --eval-every 1000000 --eval-examples 2 --warmup-steps 0 --schedule constant --precision fp32"
    if [ $task = classify ]; then own+=" --text-column 2 --label-column 1"; else own+=" --template short.json"; fi
    if [ $task = instruct ]; then own+=" --responses 0"; fi
    for signal in $signals; do
      run=$task$signal
      in_background $finetune $task --model base/latest --data ${data[$task]} $own $for_ever --run $run
      wait_for reached $run 3
      kill -s $signal $job
      ended 0
      grep -q "^stopped by signal $(number_of $signal) after step $(losses $run): " out || { tail -3 out; die "$task: SIG$signal is not reported"; }
      expect_ok $finetune $task --model base/latest --data ${data[$task]} $own --steps "$(losses $run)" --run whole$run
      same_files $run whole$run model.safetensors
    done
  done
}

# Several at once, as from schedulers and closing terminals, count as one request. Ignored signals stay ignored.
# shellcheck disable=SC2086
test_several_signals() {
  make_text
  in_background $trainer $flags $for_ever --run several
  wait_for reached several 3
  for signal in TERM HUP TERM XCPU USR1 XCPU INT HUP; do kill -s $signal $job 2>/dev/null || true; done
  ended 0
  saved_all several
  env --default-signal --ignore-signal=HUP $trainer $flags $for_ever --run nohup >out 2>&1 &
  job=$!
  wait_for reached nohup 3
  kill -HUP $job
  wait_for reached nohup $(($(losses nohup) + 100))
  kill -TERM $job
  ended 0
  expect_output '^stopped by signal 15 '
}

# Between the trials of a search.
# shellcheck disable=SC2086
test_search() {
  make_text
  echo '{"flags": {"lr": [0.001, 0.002]}}' >plan.json
  in_background $trainer $flags $for_ever --search plan.json --run search
  wait_for reached search/trial_001 3
  kill -HUP $job
  ended 0
  expect_output '^stopped by a signal: the trials so far'
  saved_all search/trial_001
  [ ! -e search/trial_002 ] || die "a trial began after the signal"
}

# A reader that is missing, closes its pipe, or never reads costs no step.
# shellcheck disable=SC2086
test_no_reader() {
  make_whole
  make_base
  make_pipes
  for output in '>&5 2>&1' '>&- 2>&-' '>&- <&- 2>out' '>/dev/full'; do
    rm -rf silent
    eval "$trainer $flags --steps $((most + 2)) --run silent $output" || die "exit $? with $output"
    [ "$(losses silent)" = $((most + 2)) ] || die "$(losses silent) losses with $output"
    same_files whole silent model.safetensors optimizer.safetensors
  done
  for task in classify instruct dpo; do
    own="--batch-size 2 --steps 20 --eval-every 10"
    if [ $task = classify ]; then own+=" --text-column 2 --label-column 1"; else own+=" --template short.json"; fi
    eval "$finetune $task --model base/latest --data ${data[$task]} $own --run silent$task >&5 2>&5" || die "$task: exit $? without a reader"
    [ "$(losses silent$task)" = 20 ] || die "$task: $(losses silent$task) losses without a reader"
  done
}

# Hundreds of lines fill a pipe; the run continues far beyond them, and ends at a signal.
# shellcheck disable=SC2086
test_slow_reader() {
  make_text
  make_pipes
  env --default-signal $trainer $flags $for_ever --run unread.run >unread 2>out &
  job=$!
  wait_for reached unread.run 3000
  kill -HUP $job
  ended 0
  saved_all unread.run
  timeout 0.2 cat <&6 >/dev/null || true  # and the pipe is empty again
  # A reader that resumes is told what it missed, and the last lines wait for it.
  env --default-signal $trainer $flags --steps 3000 --run slow >unread 2>out &
  job=$!
  wait_for [ -e slow/latest/trainer_state.json ]
  kill -0 $job || die "it did not wait for its reader"
  code=0
  { while read -r line <&6; do echo "$line"; [[ $line != *' --resume --steps '* ]] || break; done; } >heard
  ended 0
  grep -Eq '^\([0-9]+ lines were left out here: they were not read\)$' heard || die "nothing was left out: $(tail -3 heard)"
  grep -q '^done in ' heard || die "the last words are missing: $(tail -3 heard)"
}

# Other programs end without a message.
# shellcheck disable=SC2086
test_other_programs() {
  make_base
  make_pipes
  reader_gone() { # reader_gone PROGRAM FLAGS...
    local code=0
    "$BUILD/$1" "${@:2}" >&5 2>out || code=$?
    [ $code = 141 ] && [ ! -s out ] || { cat out; die "exit $code instead of 141 from $*"; }
  }
  reader_gone generate --model base/latest --prompt a --tokens 3
  reader_gone tokenize encode --tokenizer bytes --text abc
  reader_gone evaluate --model base/latest --data text.txt
  reader_gone train_gpt2 $flags --memory --run looked
  reader_gone train_gpt2 --help
  for program in 'generate --model base/latest --prompt a --tokens 3' 'tokenize encode --tokenizer bytes --text abc'; do
    code=0
    eval "$BUILD/$program >&- 2>out" || code=$?
    [ $code = 1 ] && grep -q '^error: .*output cannot be written' out || { cat out; die "exit $code without stdout from $program"; }
  done
}

# Files that become shorter, and limits of the system.
# shellcheck disable=SC2086
test_files_and_limits() {
  export ASAN_OPTIONS=handle_sigbus=0:handle_segv=0 # under AddressSanitizer, too, these are the program's
  make_whole
  in_background $trainer $flags $for_ever --run cut
  wait_for reached cut 3
  : >cut/data/train.bin
  ended 1
  expect_output '^error: cut/data/train.bin was truncated while it was being read'
  for signal in BUS SEGV; do  # a signal that was sent is not the fault of a file
    (
      ulimit -c 0
      in_background $trainer $flags $for_ever --run sent$signal
      wait_for reached sent$signal 3
      kill -s $signal $job
      ended $((128 + $(number_of $signal)))
    ) 2>/dev/null || die "SIG$signal"
    ! grep -q truncated out || die "SIG$signal was reported as a truncated file"
  done
  rm -rf limited && cp -r whole limited
  (
    ulimit -f 8  # KB
    expect_error 1 'cannot be written: File too large' $trainer --run limited --resume --steps $((most + 4))
  )
  same_files whole limited model.safetensors optimizer.safetensors
}

# Several processes: a signal to one of them, to mpirun, to its process group.
# shellcheck disable=SC2086
test_several_processes() {
  need_mpi
  make_text
  rank() { # rank RUN N: its process
    local pid
    for pid in $(pgrep -f -- "^$trainer .*--run $1( |\$)"); do
      [ "$(readlink "/proc/$pid/cwd")" = "$PWD" ] || continue  # of another test
      if tr '\0' '\n' <"/proc/$pid/environ" | grep -qx "OMPI_COMM_WORLD_RANK=$2"; then echo "$pid"; fi
    done
  }
  # mpirun kills a process one second after SIGTERM; under AddressSanitizer saving may take longer.
  local seconds=1
  if grep -q __asan_init "$trainer"; then seconds=10; fi
  mpirun_in_background() { # mpirun_in_background N FLAGS...: in its own process group, as on a terminal
    in_background setsid mpirun --mca odls_base_sigkill_timeout $seconds --oversubscribe --bind-to none -n "$1" $trainer "${@:2}"
  }
  # To one rank: all end. To mpirun, or as Ctrl-C on a terminal to its group: mpirun passes SIGUSR1 on; at the others it
  # stops reading the ranks' output, sends them SIGTERM and ends with its own code. A single process prints more lines
  # per second than a pipe holds.
  for signal in HUP USR1 XCPU; do
    mpirun_in_background 2 $flags $for_ever --run rank$signal
    wait_for reached rank$signal 3
    kill -s $signal "$(rank rank$signal 1)"
    ended 0
    saved_all rank$signal
  done
  for row in '1 INT' '1 INT -' '2 INT -' '2 TERM' '2 HUP -' '2 USR1'; do
    read -r n signal group <<<"$row"
    run=mpirun$n$signal$group
    mpirun_in_background $n $flags $for_ever --run $run
    wait_for reached $run 3
    kill -s $signal -- $group$job
    if [ $signal = USR1 ]; then ended 0; else ended 0 1 $((128 + $(number_of $signal))); fi
    saved_all $run
  done
  expect_ok mpirun --oversubscribe --bind-to none -n 2 $trainer --run mpirun2INT- --resume --steps $(($(steps_of mpirun2INT-) + 2))
  # Only a second SIGTERM ends at once: rank 0 cannot save, because rank 1 is stopped.
  mpirun_in_background 2 $flags $for_ever --run second
  wait_for reached second 3
  first=$(rank second 0) other=$(rank second 1)
  kill -STOP $other
  for signal in TERM HUP XCPU USR1 INT; do kill -s $signal $first; done
  sleep 0.6
  for signal in HUP XCPU USR1; do kill -s $signal $first; done
  sleep 0.2
  kill -0 $first || die "a signal other than a second SIGTERM ended it"
  kill -TERM $first
  ended 143
  kill -KILL $other 2>/dev/null || true
}

# ssh.sh, with stand-ins for ssh and the trainer: several kinds of signals are one SIGTERM.
# shellcheck disable=SC2086
test_ssh_launcher() {
  printf '#!/bin/bash\nshift\nexec "$@"\n' >not_ssh
  cat >saves <<'END'
#!/bin/bash
trap 'echo "SIGTERM $RANK" >>told; [ $(grep -c "SIGTERM $RANK" told) = 1 ] || exit 143' TERM
touch begun.$RANK
while [ ! -e finish ]; do sleep 0.05; done
END
  chmod +x not_ssh saves
  printf 'here slots=2\n' >hosts.txt
  told_times() { [ "$(grep -c SIGTERM told)" = "$1" ]; }
  for row in 'USR1 0 XCPU HUP' 'TERM 143 HUP TERM'; do
    read -r signal code more <<<"$row"
    rm -f told finish begun.*
    in_background "$SOURCE/apps/launch/ssh.sh" --hosts hosts.txt --ssh ./not_ssh -- ./saves
    wait_for [ -e begun.0 -a -e begun.1 ]
    kill -s $signal $job
    wait_for told_times 2
    sleep 0.6
    for signal in $more; do kill -s $signal $job; done
    [ $code = 143 ] || touch finish
    ended $code
    told_times $((code == 0 ? 2 : 4)) || { cat told; die "SIG$signal $more: the wrong number of SIGTERMs"; }
  done
}

# elastic.sh passes signals on, too.
# shellcheck disable=SC2086
test_elastic_launcher() {
  need_mpi
  make_text
  in_background "$SOURCE/apps/launch/elastic.sh" -n 2 --wait 0 --launcher-args --oversubscribe -- $trainer $flags $for_ever --run elastic
  wait_for reached elastic 3
  for signal in USR1 XCPU HUP; do kill -s $signal $job 2>/dev/null || true; done
  ended 0
  saved_all elastic
}

run_tests "$@"
