# Runs in unusual states: two processes on one run, a changed state or data, links that became folders, runs that ended
# before their first checkpoint, folders that disappear during a run, other numbers of threads.
source "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1
trainer=$BUILD/train_gpt2
children=''
# shellcheck disable=SC2086
trap 'for pid in $children; do kill -KILL $pid 2>/dev/null || true; done; rm -rf "$TMP"' EXIT

make_text() {
  for i in $(seq 1 200); do
    echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17)) and says: hello, friends."
  done >text.txt
}
tiny="--data text.txt --layers 1 --heads 2 --channels 16 --seq-len 16 --batch-size 4 --tokenizer bytes --sample-tokens 0
  --precision fp32 --eval-every 0"
for_ever="--steps 1000000 --save-every 0 --schedule constant --warmup-steps 0 --lr 1e-4"
# train FLAGS...: a new run; resume RUN FLAGS...: an existing one.
train() {
  # shellcheck disable=SC2086
  ${by:-} "$trainer" $tiny "$@"
}
resume() {
  local run=$1
  shift
  ${by:-} "$trainer" --run "$run" --resume "$@"
}
latest() { readlink "$1/latest"; }
same_state() {
  for file in model.safetensors optimizer.safetensors; do
    cmp "$1/latest/$file" "$2/latest/$file" || die "$file differs between $1 and $2"
  done
}
wait_for() { # wait_for COMMAND...: waits half a minute at most
  for _ in $(seq 1 300); do
    if "$@" 2>/dev/null; then return; fi
    sleep 0.1
  done
  tail -5 job.out
  die "not within half a minute: $*"
}
steps_are_done() { [ "$(grep -cs '"loss"' "$1/metrics.jsonl")" -ge "${2:-3}" ]; }
# start COMMAND...: in the background, its output in ./job.out; ended CODE: waits for it to end with CODE.
start() {
  by="exec" "$@" >job.out 2>&1 & # replaces the shell, so that a signal reaches the program
  job=$!
  children+=" $job"
}
ended() {
  local code=0
  wait "$job" || code=$?
  [ "$code" = "$1" ] || { tail -5 job.out; die "exit $code instead of $1"; }
}
sum() { find "$1" \( -type f -o -type l \) -exec ls -l {} + | awk '{ print $5, $9, $11 }' | sort; find "$1" -type f -exec cksum {} + | sort; }

make_whole() {  # a run of 20 steps with two checkpoints
  make_text
  expect_ok train --run whole --steps 20 --save-every 10 --warmup-steps 2 --schedule constant
}

make_longer() {  # the same, continued
  cp -r whole longer && expect_ok resume longer --steps 24
}
state=damaged/latest/trainer_state.json
damaged() { rm -rf damaged && cp -r whole damaged; }
# as_version_1: the state as written by programs before versions.
as_version_1() {
  sed -i -z -E 's/,\n  "(checksum|run_id|val_checksum|version)": ("[^"]*"|[0-9]+)//g; s/,\n  "cores": [0-9]+//; s/,\n  "data_files": \{[^}]*\}//; s/,\n    "threads": [0-9]+//' $state
  grep -qE 'version|"checksum"|run_id|data_files|val_checksum|cores|threads' $state && die "not of version 1: $(cat $state)"
  true
}

make_rows() {  # for finetuning
  for i in $(seq 40); do printf 'good\tfine text %d\nbad\tpoor text %d\n' $i $((i * 7)); done >rows.tsv
}
classify() { ${by:-} "$BUILD/finetune" classify --model whole/latest --data rows.tsv --label-column 1 --text-column 2 --batch-size 2 --max-length 8 "$@"; }

# A resumed run equals an unbroken one, bit for bit; a changed state is refused.
test_smoke() {
  make_whole
  cp -r whole parts && rm -r parts/checkpoints/step_000020 && ln -sfn checkpoints/step_000010 parts/latest
  expect_ok resume parts
  same_state whole parts
  damaged && sed -i 's/"batch": [0-9]*/"batch": 1/' $state
  expect_error 1 'trainer_state.json: damaged, or changed by hand' resume damaged --steps 22
}

# Two processes on one run: the second is refused, and names the first.
test_in_use() {
  make_whole
  [ ! -e whole/lock ] || die "a run that has ended left its lock"
  cp -r whole shared
  start resume shared --steps 1000000 --save-every 1000000
  wait_for steps_are_done shared 25
  [ "$(cat shared/lock)" = "$(printf 'pid %d on %s since ' $job "$(uname -n)")$(sed 's/.* since //' shared/lock)" ] || die "the lock says $(cat shared/lock)"
  in_use="shared is in use: another process writes to it: pid $job on $(uname -n) since 20[0-9-]+ [0-9:]+ UTC; wait until"
  sum shared/checkpoints >sums
  # Everything that writes to a run, however its folder is named.
  expect_error 1 "$in_use" resume shared --steps 30
  expect_error 1 "in use: .* pid $job" resume ./shared/ --steps 30
  expect_error 1 "in use: .* pid $job" resume shared/checkpoints/step_000010 --steps 30
  expect_error 1 "in use: .* pid $job" resume shared/latest --steps 30
  expect_error 1 "$in_use" train --run shared --steps 30
  ln -s shared link
  expect_error 1 "in use: .* pid $job" resume link --steps 30
  sum shared/checkpoints | diff - sums || die "a refused process changed the folder"
  kill -0 $job || die "the first was disturbed"
  [ "$(cat shared/lock)" != '' ] || die "a refused process changed the lock"
  kill -TERM $job
  ended 0
  [ ! -e shared/lock ] || die "the lock is left after SIGTERM"
  # Both runs new.
  # shellcheck disable=SC2086
  start train --run fresh $for_ever
  wait_for steps_are_done fresh
  expect_error 1 'fresh is in use' train --run fresh --steps 3
  expect_error 1 'fresh is in use' resume fresh --steps 3
  # A crash releases the lock; its remains are not an error, but a file that is not a lock is.
  kill -KILL $job
  ended 137
  [ -s fresh/lock ] || die "the crash left no lock"
  expect_ok train --run fresh --steps 3
  expect_output '^fresh holds a run that ended before its first checkpoint: it begins anew$'
  cp -r whole left && echo 'pid 1 on elsewhere since 2020-01-01 00:00:00 UTC' >left/lock
  expect_ok resume left --steps 22
  cp -r whole mine && echo 'my own' >mine/lock
  expect_error 1 'mine/lock: expected the lock of a run, found another file' resume mine --steps 22
  [ "$(cat mine/lock)" = 'my own' ] || die "a user's file was overwritten"
}

# Only files of this run are removed: later steps, checkpoints of other runs and other folders stay.
test_what_is_removed() {
  make_whole
  cp -r whole keeps
  expect_ok train --run other --steps 10 --seed 7
  cp -r other/latest/. keeps/checkpoints/step_000005
  mkdir keeps/checkpoints/step_000007 keeps/checkpoints/notes keeps/checkpoints/step_mine.tmp
  cp -r whole/latest/. keeps/checkpoints/step_000003 # a copy whose name is not its step
  echo '{"step": 4}' >keeps/checkpoints/step_000007/trainer_state.json
  expect_ok resume keeps/checkpoints/step_000010 --steps 14 --save-every 1 --keep 1
  for kept in step_000014 step_000020 step_000005 step_000007 step_000003 notes step_mine.tmp; do
    [ -e keeps/checkpoints/$kept ] || die "--keep 1 removed $kept"
  done
  for gone in 10 11 12 13; do
    [ ! -e keeps/checkpoints/step_0000$gone ] || die "--keep 1 kept step $gone"
  done
}

# Trials of a search, and finetuning.
test_trials_and_finetuning() {
  make_whole
  make_rows
  printf '{"flags": {"lr": [1e-3, 1e-4]}}' >search.json
  # shellcheck disable=SC2086
  start train --search search.json --run searched $for_ever
  wait_for steps_are_done searched/trial_001
  expect_error 1 'searched already holds a search' train --search search.json --run searched --steps 5
  expect_error 1 'searched/trial_001 is in use' resume searched/trial_001 --steps 5
  kill -KILL $job
  ended 137
  start classify --run tuned --epochs 100000
  wait_for steps_are_done tuned
  [ -s tuned/lock ] || die "finetune takes no lock"
  expect_error 1 'tuned (is in use: .* pid '$job'|already holds a run)' classify --run tuned --epochs 1
  [ -e tuned/latest ] || expect_output 'tuned is in use' # a checkpoint may have come meanwhile
  kill -KILL $job
  ended 137
  rm -rf tuned/latest
  expect_ok classify --run tuned --epochs 1
  expect_output '^tuned holds a run that ended before its first checkpoint'
  [ ! -e tuned/lock ] || die "finetune left its lock"
  expect_error 1 'tuned already holds a run \(it has metrics.jsonl\)' classify --run tuned --epochs 1
}

# Changes to the files that a resume reads: each is detected and named, and the folder stays unchanged.
test_changed() {
  make_whole
  grep -q '^  "version": 2$' whole/latest/trainer_state.json || die "no version in the state"
  while IFS='|' read -r what message change; do
    damaged
    sum damaged >sums
    (cd damaged && eval "$change")
    sum damaged | cmp -s - sums && die "nothing was changed by: $change"
    sum damaged >sums
    expect_error 1 "$message" resume damaged --steps 22
    sum damaged | diff - sums || die "a refused resume changed the folder: $what"
  done <<'CASES'
a digit of the state|trainer_state.json: damaged, or changed by hand: its checksum is [0-9a-f]{16}, expected "[0-9a-f]{16}"; resume from another checkpoint|sed -i 's/"batch": [0-9]*/"batch": 1/' latest/trainer_state.json
a setting|trainer_state.json: damaged, or changed by hand|sed -i 's/"dropout": 0.0/"dropout": 0.1/' latest/trainer_state.json
the version|trainer_state.json: damaged, or changed by hand|sed -i 's/"version": 2/"version": 1/' latest/trainer_state.json
a newer version|trainer_state.json: version 3, expected at most 2: it was written by a newer wrought|sed -i 's/"version": 2/"version": 3/' latest/trainer_state.json
no version|trainer_state.json: damaged, or changed by hand|sed -i 's/"version"/"versiom"/' latest/trainer_state.json
no checksum|trainer_state.json: damaged, .* expected none|sed -i '/^  "checksum": /d' latest/trainer_state.json
the checksum|trainer_state.json: damaged|sed -i 's/^  "checksum": ".*"/  "checksum": "0000000000000000"/' latest/trainer_state.json
training data|damaged/data/train.bin is not what the run began with .checksum|printf 'Z' | dd of=data/train.bin bs=1 seek=5000 conv=notrunc status=none
validation data|damaged/data/val.bin is not what the run began with .checksum|printf 'Z' | dd of=data/val.bin bs=1 seek=1200 conv=notrunc status=none
no validation data|damaged/data/val.bin: cannot be read: No such file|rm data/val.bin
the tokenizer|step_000020/tokenizer.json: damaged: its checksum|printf ' ' >>latest/tokenizer.json
CASES
}

# A state of version 1 resumes, to the same bits; what is wrong with it is named.
test_version_1() {
  make_whole
  damaged && as_version_1
  expect_ok resume damaged --steps 22
  expect_output '^settings newer than this state, at their defaults: --threads$'
  expect_ok resume damaged --steps 24
  grep -q 'settings newer' out && die "the new state does not have all settings"
  make_longer
  same_state damaged longer
  grep -q '"val.bin"' damaged/latest/trainer_state.json || die "no checksum of the data after a resume from version 1"
  while IFS='|' read -r message change; do
    damaged && as_version_1
    (cd damaged/latest && eval "$change")
    expect_error 1 "$message" resume damaged --steps 22
  done <<'CASES'
trainer_state.json: has "foo", which this program does not know: misspelt, or written by a newer one|sed -i '1s/{/{"foo": 1,/' trainer_state.json
trainer_state.json: has "stepp", which this program does not know|sed -i 's/^  "step": /  "stepp": /' trainer_state.json
trainer_state.json: .*configuration has "dropuot", which this program does not know|sed -i 's/"dropout"/"dropuot"/' trainer_state.json
trainer_state.json: .*no usable value for lr|sed -i 's/"lr": [^,]*/"lr": "x"/' trainer_state.json
CASES
  # Settings missing from the state are named, except those that are given.
  damaged && as_version_1 && sed -i -E '/^    "(keep|lr-decay-per-layer)": /d' $state
  expect_ok resume damaged --steps 22 --threads 2
  expect_output '^settings newer than this state, at their defaults: --lr-decay-per-layer --keep$'
  damaged && as_version_1 && sed -i -E '/^    "dropout": /d' $state
  expect_error 2 '--dropout: the run has 0.0, given is 0.5' resume damaged --steps 22 --dropout 0.5
}

# A user's shards: a sample of the training and the validation data.
test_shards() {
  make_whole
  cp whole/data/train.bin a.bin && cp whole/data/val.bin b.bin
  outside=${tiny/--data text.txt/--data a.bin --val-data b.bin} outside=${outside/--tokenizer bytes/--tokenizer whole/latest}
  tiny=$outside expect_ok train --run outside --steps 2
  printf 'Z' | dd of=b.bin bs=1 seek=1200 conv=notrunc status=none
  expect_error 1 'the validation data is not what the run began with' resume outside --steps 4
  cp whole/data/val.bin b.bin
  expect_ok resume outside --steps 4
}

# Links that became folders.
test_links() {
  make_whole
  make_longer
  expect_ok resume longer --steps 30
  copied() { rm -rf copied && cp -rL whole copied; }
  copied
  expect_ok resume copied --steps 30
  expect_output '^latest was a folder, a copy of checkpoints/step_000020: it is a link to that again$'
  [ "$(latest copied)" = checkpoints/step_000030 ] || die "latest points to $(latest copied)"
  same_state copied longer
  copied && rm -r copied/checkpoints # only the copy is left
  expect_ok resume copied/latest --steps 30
  expect_output '^latest was a folder: that is checkpoints/step_000020 now, and latest a link to it$'
  [ -s copied/checkpoints/step_000020/model.safetensors ] || die "the checkpoint is missing"
  same_state copied longer
  copied && cp -r copied/checkpoints/step_000010 copied/best
  expect_ok resume copied --steps 21
  expect_output '^best was a folder, a copy of checkpoints/step_000010'
  [ "$(readlink copied/best)" = checkpoints/step_000010 ] || die "best is not a link"
  while IFS='|' read -r message change; do
    copied
    (cd copied && eval "$change")
    sum copied >sums
    expect_error 1 "$message" resume copied --steps 30
    sum copied | diff - sums || die "a refused resume changed the folder: $change"
  done <<'CASES'
copied/latest/model.safetensors: damaged|printf 'Z' | dd of=latest/model.safetensors bs=1 seek=5000 conv=notrunc status=none
step_000020/model.safetensors: damaged: .*copied/latest is a folder, and a whole checkpoint of that step: move the damaged one away|printf 'Z' | dd of=checkpoints/step_000020/model.safetensors bs=1 seek=5000 conv=notrunc status=none
copied/latest: expected a link, found a folder that holds another checkpoint than copied/checkpoints/step_000020|rm -r checkpoints/step_000020; cp -r ../longer/checkpoints/step_000024 checkpoints/step_000020
copied/best: expected a link to a checkpoint, found a folder without a training state; move it away|mkdir best
CASES
  copied && rm copied/latest/trainer_state.json
  expect_error 1 'copied/latest: expected a link to a checkpoint, found a folder without a training state' resume copied/checkpoints/step_000010 --steps 30
}

# A run that ended before its first checkpoint.
test_no_checkpoint() {
  make_whole
  # shellcheck disable=SC2086
  start train --run early $for_ever
  wait_for steps_are_done early
  kill -KILL $job
  ended 137
  expect_error 1 'early: .*found no checkpoint: the run ended before its first one; start it again, without --resume' resume early
  mkdir -p early/checkpoints/step_000009.tmp
  cp -r early again
  expect_ok train --run early --steps 5
  expect_output '^early holds a run that ended before its first checkpoint: it begins anew$'
  [ "$(grep -c '"loss"' early/metrics.jsonl)" = 5 ] || die "not one line for each step"
  [ "$(grep -c '"config"' early/metrics.jsonl)" = 1 ] || die "two first lines"
  [ "$(ls early/checkpoints | head -1)" = step_000002 ] || die "left: $(ls early/checkpoints)"
  # Files that may be valuable, or belong to others, stay.
  while IFS='|' read -r message change; do
    rm -rf kept && cp -r again kept
    (cd kept && eval "$change")
    sum kept >sums
    expect_error 1 "kept already holds a run .it has $message" train --run kept --steps 5
    sum kept | diff - sums || die "a refused run changed the folder: $change"
  done <<'CASES'
checkpoints|cp -r ../whole/checkpoints/step_000010 checkpoints/
checkpoints|mkdir checkpoints/mine
checkpoints|mkdir checkpoints/step_000009.old.tmp
checkpoints|ln -s checkpoints/step_000010 latest
checkpoints|touch data/notes
metrics.jsonl|rm -r checkpoints; echo mine >metrics.jsonl; echo more >>metrics.jsonl
data|rm -rf checkpoints metrics.jsonl lock
CASES
  # It ended while it wrote its data.
  rm -r again/checkpoints again/metrics.jsonl && mv again/data/val.bin again/data/val.bin.tmp
  echo 'pid 1 on elsewhere since 2020-01-01 00:00:00 UTC' >again/lock
  expect_error 1 'found no checkpoint' resume again
  expect_ok train --run again --steps 5
}

# A folder that disappears during a run.
test_folder_disappears() {
  make_whole
  make_rows
  while IFS='|' read -r message change; do
    rm -rf there away
    cp -r whole there
    start resume there --steps 1000000 --save-every 1000000
    wait_for steps_are_done there 25
    kill -STOP $job
    eval "$change"
    kill -CONT $job
    ended 1
    grep -qE "$message" job.out || { tail -3 job.out; die "no message like '$message'"; }
    [ ! -e there/checkpoints ] || die "part of the folder was made again: $(find there)"
    if [ -e away ]; then
      [ ! -e away/lock ] || die "the moved folder still has the lock"
      expect_ok resume away --steps 22
    fi
  done <<'CASES'
there was removed while the run wrote to it: nothing of the run is left; start it again|rm -rf there
there was moved to .*/away while the run wrote to it; .*continues with --run .*/away --resume|mv there away
there was moved to .*/away while the run wrote to it, and another folder is in its place|mv there away && mkdir there
CASES
  start classify --run going --epochs 100000 --eval-every 1000000
  wait_for steps_are_done going
  mv going away2
  ended 1
  grep -q 'going was moved to .*/away2' job.out || die "finetune: $(tail -3 job.out)"
  [ ! -e going ] || die "finetune made the folder again"
}

# The number of threads is that of the run; less on a machine with fewer cores.
test_threads() {
  make_text
  expect_ok train --run threads --steps 4 --threads 1
  expect_output ', 1 threads, peak'
  expect_ok resume threads --steps 8
  expect_output ', 1 threads, peak'
  expect_ok resume threads --steps 10 --threads 2
  expect_output ', 2 threads, peak'
  expect_ok resume threads --steps 12
  expect_output ', 2 threads, peak'
  # A machine with fewer cores than that of the run so far.
  if [ "$(nproc)" -gt 1 ]; then
    many=$(($(nproc) + 3))
    expect_ok train --run moved --steps 4 --threads $many # more than the cores: unchanged on this machine
    expect_ok resume moved --steps 8
    expect_output ", $many threads, peak"
    expect_ok taskset -c 0 "$trainer" --run moved --resume --steps 10
    expect_output "^threads: the run has --threads $many, and this machine has 1 cores: it continues with 1 threads,"
    expect_output ', 1 threads, peak'
    expect_ok train --run default --steps 4
    expect_ok taskset -c 0 "$trainer" --run default --resume --steps 8
    expect_output "^threads: the run had a machine of $(nproc) cores, and this one has 1"
  fi
}

# Several processes: rank 0 holds the lock, and all report that another run does.
test_several_processes() {
  if ! command -v mpirun >/dev/null || [[ $(ldd "$trainer") != *libmpi* ]]; then
    echo "skipped: no mpirun, or train_gpt2 was built without MPI (libopenmpi-dev, openmpi-bin)"
    exit 77
  fi
  make_text
  export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 ASAN_OPTIONS=detect_leaks=0
  two() { ${by:-} mpirun --oversubscribe --bind-to none -n 2 "$trainer" "$@"; }
  # shellcheck disable=SC2086
  expect_ok two $tiny --run both --steps 4 --warmup-steps 0 --schedule constant
  [ ! -e both/lock ] || die "several processes left their lock"
  start two --run both --resume --steps 1000000 --save-every 1000000
  wait_for steps_are_done both 8
  holder=$(sed 's/^pid \([0-9]*\) .*/\1/' both/lock)
  [ "$(tr '\0' '\n' <"/proc/$holder/environ" | grep '^OMPI_COMM_WORLD_RANK=')" = OMPI_COMM_WORLD_RANK=0 ] || die "rank 0 does not hold the lock"
  sum both/checkpoints >sums
  expect_error 1 "both is in use: another process writes to it: pid $holder on" two --run both --resume --steps 6
  expect_error 1 "both is in use: another process writes to it: pid $holder on" resume both --steps 6
  sum both/checkpoints | diff - sums || die "a refused process changed the folder"
  kill -KILL $job "$holder"
  for _ in $(seq 100); do
    pgrep -f "^$trainer --run both" >/dev/null || break
    sleep 0.2
  done
  expect_ok two --run both --resume --steps 6
}

run_tests "$@"
