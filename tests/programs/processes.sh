# Shared by the tests of several processes: $trainer started by mpirun, and how it ended.
if ! command -v mpirun >/dev/null || [[ $(ldd "$trainer") != *libmpi* ]]; then
  echo "skipped: no mpirun, or $(basename "$trainer") was built without MPI (libopenmpi-dev, openmpi-bin)"
  exit 77
fi
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export ASAN_OPTIONS=detect_leaks=0 # OpenMPI leaks some memory at its end
mpi="--oversubscribe --bind-to none"

processes() { # processes N FLAGS...
  local n=$1
  shift
  # shellcheck disable=SC2086
  mpirun $mpi -n "$n" "$trainer" "$@"
}

# same_curve A B BOUND: the losses of all steps and validations differ by at most BOUND.
same_curve() {
  local name
  for name in loss val_loss; do
    paste <(grep -o "\"$name\":[^,}]*" "$1/metrics.jsonl" | cut -d: -f2) <(grep -o "\"$name\":[^,}]*" "$2/metrics.jsonl" | cut -d: -f2) |
      awk -v bound="$3" -v name="$name" '
        NF != 2 { print "one has more " name "es than the other"; exit bad = 1 }
        { d = $1 - $2; if (d < 0) d = -d; if (d > most) most = d }
        END { if (!bad && (NR == 0 || most > bound)) { print name " differs by " most; bad = 1 } exit bad }' ||
      die "the curves of $1 and $2 differ"
  done
}

losses() { grep -o '"loss":[^,}]*' "$1/metrics.jsonl"; }
same_state() {  # two runs ended in the same state, bit for bit, with the same losses
  local file
  for file in model.safetensors optimizer.safetensors; do
    cmp "$1/latest/$file" "$2/latest/$file" || die "$file differs between $1 and $2"
  done
  diff <(losses "$1") <(losses "$2") >"$TMP/out" || { cat "$TMP/out"; die "losses differ between $1 and $2"; }
}
steps_of() { sed -n 's/^  "step": \([0-9]*\).*/\1/p' "$1/latest/trainer_state.json"; }

# start_processes N FLAGS...: in the background, until a few steps are done. end_processes: sets $code, and $seconds
# since.
start_processes() {
  local run
  # shellcheck disable=SC2001
  run=$(sed 's/.*--run \([^ ]*\).*/\1/' <<<"$*")
  rm -rf "$run"
  processes "$@" >out 2>&1 &
  job=$!
  for _ in $(seq 1 600); do
    if [ -e "$run/metrics.jsonl" ] && [ "$(grep -c '"loss"' "$run/metrics.jsonl")" -ge 3 ]; then break; fi
    kill -0 $job 2>/dev/null || { cat out; die "it ended before its third step"; }
    sleep 0.1
  done
  begun=$SECONDS
}
end_processes() {
  code=0
  wait "$job" || code=$?
  seconds=$((SECONDS - begun))
}
pid_of_rank() { # pid_of_rank RUN RANK
  local pid
  for pid in $(pgrep -f "$trainer .*--run $1 "); do
    [ "$(readlink "/proc/$pid/cwd")" = "$PWD" ] || continue  # of another test
    if [[ $'\n'$(tr '\0' '\n' <"/proc/$pid/environ")$'\n' == *$'\n'"OMPI_COMM_WORLD_RANK=$2"$'\n'* ]]; then
      echo "$pid"
      return
    fi
  done
  die "no process of rank $2"
}
