# train_gpt2 as several processes, started by mpirun: one loss curve for every number and stage; resumed by another
# number; a process that dies, hangs, has other flags or a signal.
source "$(dirname "$0")/lib.sh"
trainer=$BUILD/train_gpt2
source "$SOURCE/tests/programs/processes.sh"

make_text() {
  for i in $(seq 1 400); do
    echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17)) and says: hello, friends."
  done >text.txt
}
model="--layers 3 --heads 2 --channels 24 --seq-len 16 --tokenizer bytes --sample-tokens 4 --prompt Fox"
bare=${model/--tokenizer bytes --sample-tokens 4 --prompt Fox/}
flags="--data text.txt $model --batch-size 2 --total-batch-tokens 256 --dropout 0.1 --ema 0.9 --precision fp32 --timeout 60"

make_one() {  # the run with one process
  make_text
  # shellcheck disable=SC2086
  expect_ok $trainer $flags --run one --steps 50 --eval-every 25 --save-every 25
}

# same_as_one N: with N processes, in every stage, the curve is the same.
# shellcheck disable=SC2086
same_as_one() {
  local n=$1 zero
  for zero in 0 1 2 3; do
    expect_ok processes $n $flags --run $n-$zero --steps 50 --eval-every 25 --save-every 25 --zero $zero
    same_curve one $n-$zero 1e-5
  done
}

# Two processes have the curve of one; a stage that does not exist is refused.
# shellcheck disable=SC2086
test_smoke() {
  make_text
  expect_ok $trainer $flags --run one --steps 4 --eval-every 4
  expect_ok processes 2 $flags --run two --steps 4 --eval-every 4 --zero 2
  same_curve one two 1e-5
  expect_error 2 'zero is 4, expected 0 to 3' processes 2 $flags --run no --steps 1 --zero 4
  [ ! -e no ] || die "a run that could not begin left files: $(ls -R no)"
}

# One curve with two processes, whatever the stage; and a stage for one process.
# shellcheck disable=SC2086
test_two_processes() {
  make_one
  same_as_one 2
  expect_ok $trainer $flags --run alone --steps 1 --zero 2
  expect_output '^--zero 2 shares nothing out: there is one process'
}

# The same curve with four, and the files of one; repeated bit for bit.
# shellcheck disable=SC2086
test_four_processes() {
  make_one
  same_as_one 4
  expect_output '^training: .* 4 processes, ZeRO 3, each '
  [ "$(ls 4-3/latest/)" = "$(ls one/latest/)" ] || die "not the files that one process writes: $(ls 4-3/latest/)"
  for file in model optimizer; do
    [ "$(wc -c <one/latest/$file.safetensors)" = "$(wc -c <4-3/latest/$file.safetensors)" ] || die "$file has another size"
  done
  expect_ok processes 4 $flags --run again --steps 50 --eval-every 25 --save-every 25 --zero 3
  same_state 4-3 again
}

# The same after resuming from a checkpoint.
# shellcheck disable=SC2086
test_resumed() {
  make_text
  expect_ok processes 4 $flags --run parts --steps 25 --warmup-steps 2 --schedule constant --zero 2
  expect_ok processes 4 $flags --run whole --steps 50 --warmup-steps 2 --schedule constant --zero 2
  expect_ok processes 4 --run parts --resume --steps 50
  same_state whole parts
}

# Resumed by another number of processes, and in another stage.
# shellcheck disable=SC2086
test_other_number() {
  make_one
  expect_ok processes 4 $flags --run 4-3 --steps 50 --eval-every 25 --save-every 25 --zero 3
  for to in '2 1' '1 0' '4 0' '8 3'; do
    rm -rf moved && cp -r 4-3 moved && rm -rf moved/checkpoints/step_000050 && ln -sfn checkpoints/step_000025 moved/latest
    expect_ok processes ${to% *} --run moved --resume --zero ${to#* }
    same_curve one moved 1e-5
  done
}

# Processes that disagree, and work that cannot be shared evenly.
# shellcheck disable=SC2086
test_disagreement() {
  make_text
  expect_ok $trainer $flags --run one --steps 1
  expect_error 2 'rank 1 \(.*\) has another seed than rank 0: 2, expected 1' mpirun $mpi -n 1 $trainer $flags --run no --steps 1 --seed 1 : -n 1 $trainer $flags --run no --steps 1 --seed 2
  cp "$trainer" other && printf x >>other
  expect_error 2 'rank 1 \(.*\) has another program than rank 0' mpirun $mpi -n 1 $trainer $flags --run no --steps 1 : -n 1 ./other $flags --run no --steps 1
  mkdir -p a b && cp one/data/train.bin a/ && cp one/data/val.bin b/train.bin
  expect_error 2 'another training data \(a checksum\) than rank 0' mpirun $mpi -n 1 -wdir "$PWD/a" $trainer --data train.bin $bare --vocab-size 300 --run "$PWD/no" --steps 1 --batch-size 1 : \
    -n 1 -wdir "$PWD/b" $trainer --data train.bin $bare --vocab-size 300 --run "$PWD/no" --steps 1 --batch-size 1
  expect_error 2 '3 processes cannot share the 8 micro-batches of a step evenly; these numbers of processes can: 1 2 4 8' processes 3 $flags --run no --steps 1
  expect_error 2 'search are for one process, and 2 were started' processes 2 $flags --run no --steps 1 --find-lr
  expect_error 2 'zero 1 cuts matrices apart' processes 2 $flags --run no --steps 1 --zero 1 --optimizer muon
  expect_error 2 'zero is 4, expected 0 to 3' processes 2 $flags --run no --steps 1 --zero 4
  expect_error 1 'nothere' processes 2 ${flags/text.txt/nothere.txt} --run no --steps 1
  printf 'one/data/val.bin\none/data/train.bin\n' >shards.list
  expect_error 1 'train.bin: token [0-9]+ is [0-9]+, but the vocabulary has 50 entries|val.bin: token .* 50 entries' \
    processes 2 --data shards.list $bare --vocab-size 50 --run no --steps 1
  [ ! -e no ] || die "a run that could not begin left files: $(ls -R no)"
  by_variables() {  # two processes not started by an MPI launcher
    export WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + RANDOM % 20000))
    RANK=1 $trainer "$@" >/dev/null 2>&1 &
    RANK=0 $trainer "$@"
  }
  expect_error 1 'start them with mpirun or srun' by_variables $flags --run no --steps 1
  wait
  unset WORLD_SIZE MASTER_ADDR MASTER_PORT
  rm -rf no
}

# SIGTERM to any rank: all finish the step, save and exit.
# shellcheck disable=SC2086
test_terminated() {
  make_text
  start_processes 4 $flags --run term --steps 100000 --warmup-steps 5 --zero 2
  kill -TERM "$(pid_of_rank term 2)"
  end_processes
  [ "$code" = 0 ] || { cat out; die "exit $code after SIGTERM"; }
  expect_output 'stopped by a signal to another process after step'
  [ -s term/latest/trainer_state.json ] || die "no checkpoint after SIGTERM"
  expect_ok processes 4 --run term --resume --steps "$(($(steps_of term) + 3))"
}

# kill -9: the others end, and name the process.
# shellcheck disable=SC2086
test_killed() {
  make_text
  start_processes 4 $flags --run kill --steps 100000 --warmup-steps 5 --save-every 20 --zero 3
  for _ in $(seq 1 600); do
    [ -e kill/latest/trainer_state.json ] && break
    sleep 0.1
  done
  kill -KILL "$(pid_of_rank kill 3)"
  begun=$SECONDS
  end_processes
  [ "$code" != 0 ] || die "exit 0 after kill -9"
  expect_output 'rank 3 \(.*, process [0-9]+\) has gone'
  [ "$seconds" -lt 30 ] || die "the others ended $seconds s later"
  expect_ok processes 4 --run kill --resume --steps "$(($(steps_of kill) + 3))"
}

# A stopped process: the others wait, and then name it.
# shellcheck disable=SC2086
test_hanging() {
  make_text
  start_processes 2 ${flags/--timeout 60/} --run hang --steps 100000 --warmup-steps 5 --timeout 2
  stopped=$(pid_of_rank hang 1)
  kill -STOP "$stopped"
  end_processes
  kill -KILL "$stopped" 2>/dev/null || true
  [ "$code" != 0 ] || die "exit 0 after SIGSTOP"
  expect_output 'the others wait for rank 1'
  [ "$seconds" -lt 30 ] || die "the others ended $seconds s later"
}

# A loss that is not finite on one process: the row of 'Z' in the embeddings overflows, and every other window has one.
# shellcheck disable=SC2086
test_not_finite() {
  for _ in $(seq 1 40); do printf 'abcdefghijklmno\nabcdefgZijklmno\n'; done >lines.txt
  order="--data lines.txt --seq-len 16 --val-fraction 0 --sample-tokens 0 --data-order sequential --batch-size 1"
  expect_ok $trainer $order --tokenizer bytes --layers 2 --heads 2 --channels 24 --untied-head --steps 1 --run letters
  weights=letters/latest/model.safetensors
  header=$(od -An -tu8 -N8 $weights | tr -d ' ')
  table=$(head -c $((8 + header)) $weights | grep -ao 'wte.weight":{[^}]*' | sed 's/.*data_offsets":\[\([0-9]*\).*/\1/')
  for _ in $(seq 24); do printf '\x7f\x7f\x7f\x7f'; done |
    dd of=$weights bs=1 seek=$((8 + header + table + 90 * 24 * 4)) conv=notrunc status=none
  expect_error 1 'the loss is not finite on rank 1 \(.*\): .* 5 steps in a row' \
    processes 2 --model letters/latest $order --total-batch-tokens 32 --steps 20 --run broken --zero 1
}

# --memory prints the memory that is used.
# shellcheck disable=SC2086
test_memory() {
  make_text
  expect_ok processes 4 $flags --memory --zero 3
  expect_output '^gathered parameters '
}

run_tests "$@"
