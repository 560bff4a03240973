#!/usr/bin/env bash
# Runs a trainer as several processes. When one of them is lost, the run starts again from its last checkpoint, with the
# processes that remain: the largest smaller number that divides the step's batch.
#
#   apps/launch/elastic.sh -n 8 -- build/train_gpt2cu --run runs/mine --model gpt2
#   apps/launch/elastic.sh -n 16 --hosts hosts.txt --launcher ssh -- build/train_gpt2cu --run runs/mine
#
#   -n N                 processes to begin with
#   --max-restarts N     after this many the run has failed (10)
#   --keep-size          restarts with the same number: what was lost comes back, or it was not the machine
#   --launcher NAME      mpirun, srun (inside a Slurm job), or ssh (ssh.sh next to this) (mpirun)
#   --hosts FILE         the machines, "name slots=8" per line; each start leaves out those on which `true`
#                        cannot be run by --ssh within 10 s (mpirun, ssh)
#   --ssh COMMAND        how to reach them ("ssh -o BatchMode=yes -o ConnectTimeout=5 -o ServerAliveInterval=5")
#   --launcher-args "A"  more words for the launcher, such as "--mca btl_tcp_if_include eth0"
#   --wait SECONDS       between an end and the next start (5)
#
# A process is lost if the run ends with exit code 75 (from the trainer), or with a launcher's code for a process killed
# by a signal or a machine that is gone. Everything else is final: 0, errors (1), wrong flags (2).
# SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGXCPU: all processes finish the step, save and end, and so does this script; at
# a second SIGINT or SIGTERM of the same kind all end at once.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

usage() {
  echo "error: $*" >&2
  echo "(apps/launch/elastic.sh --help lists the flags)" >&2
  exit 2
}
say() { echo "elastic: $*"; }

# ---- flags ---------------------------------------------------------------------------------------------------------

processes='' max_restarts=10 keep_size='' launcher=mpirun hosts='' launcher_args=() wait_seconds=5
ssh=(ssh -o BatchMode=yes -o ConnectTimeout=5 -o ServerAliveInterval=5)
while [ $# -gt 0 ]; do
  flag=$1
  case $flag in
    --help | -h) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --) shift; break ;;
    --keep-size) keep_size=1 ;;
    -n | --max-restarts | --launcher | --hosts | --ssh | --launcher-args | --wait)
      [ -n "${2:-}" ] || usage "$flag needs a value"
      case $flag in
        -n) processes=$2 ;;
        --max-restarts) max_restarts=$2 ;;
        --launcher) launcher=$2 ;;
        --hosts) hosts=$2 ;;
        --ssh) read -ra ssh <<<"$2" ;;
        --launcher-args) read -ra launcher_args <<<"$2" ;;
        --wait) wait_seconds=$2 ;;
      esac
      shift ;;
    -*) usage "'$flag' is not a flag of this script; the trainer's flags come after --" ;;
    *) usage "'$flag': the trainer and its flags come after --" ;;
  esac
  shift
done
[[ $processes =~ ^[1-9][0-9]{0,5}$ ]] || usage "-n is '$processes', expected the number of processes"
[[ $max_restarts =~ ^[0-9]{1,6}$ ]] || usage "--max-restarts is '$max_restarts', expected a number"
[[ $wait_seconds =~ ^[0-9]{1,5}$ ]] || usage "--wait is '$wait_seconds', expected whole seconds"
[ $# -ge 1 ] || usage "no trainer: elastic.sh -n 8 -- build/train_gpt2cu --run runs/mine ..."
command -v "$1" >/dev/null || usage "$1 is not a program; is it built?"
case $launcher in
  mpirun | srun) command -v "$launcher" >/dev/null || usage "--launcher $launcher: there is no $launcher on this machine" ;;
  ssh) [ -n "$hosts" ] || usage "--launcher ssh needs --hosts" ;;
  *) usage "--launcher is '$launcher', expected mpirun, srun or ssh" ;;
esac
[ -z "$hosts" ] || [ -r "$hosts" ] || usage "--hosts $hosts cannot be read"
[ -z "$hosts" ] || [ "$launcher" != srun ] || usage "--hosts: under srun Slurm knows the machines"

# The trainer's command line without --run and --resume, which differ from start to start.
program=$1 run='' resume='' trainer=("$1")
shift
while [ $# -gt 0 ]; do
  case $1 in
    --run=*) run=${1#--run=} ;;
    --run) [ $# -ge 2 ] || usage "the trainer's --run needs a folder"; run=$2; shift ;;
    --resume) resume=1 ;;
    *) trainer+=("$1") ;;
  esac
  shift
done
[ -n "$run" ] || usage "the trainer has no --run: its folder is where the checkpoints are looked for"
folder=${run%/}
[ -z "$resume" ] || [ ! -e "$folder/trainer_state.json" ] || folder=$(cd "$folder/../.." && pwd)  # a checkpoint was named

# ---- the run's folder ----------------------------------------------------------------------------------------------

traces=(checkpoints metrics.jsonl data latest)
holds_a_run() {
  local trace
  for trace in "${traces[@]}"; do [ ! -e "$folder/$trace" ] && [ ! -L "$folder/$trace" ] || return 0; done
  return 1
}
was_empty=1
! holds_a_run || was_empty=''

last_checkpoint() { # its folder, or nothing. Where `latest` had not yet moved to the first one, that one.
  local found
  for found in "$folder/latest" "$folder"/checkpoints/step_*; do
    if [ -s "$found/trainer_state.json" ]; then (cd "$found" && pwd -P); return; fi
  done
}
number() { # number NAME FILE: the first "NAME": 123 there, or nothing
  { grep -oE "\"$1\": ?[0-9]+" "$2" 2>/dev/null || true; } | sed -n 1p | grep -oE '[0-9]+$' || true
}
# Micro-batches of a step over all processes, which can be shared; nothing if unknown.
micro_batches() {
  local from total batch length
  from=$(last_checkpoint)
  if [ -n "$from" ]; then from=$from/trainer_state.json; else from=$folder/metrics.jsonl; fi
  total=$(number total-batch-tokens "$from")
  batch=$(number batch-size "$from")
  length=$(number seq-len "$from")
  [ -n "$total" ] && [ "${batch:-0}" -gt 0 ] && [ "${length:-0}" -gt 0 ] || return 0
  echo $((total / (batch * length)))
}

# ---- one start -----------------------------------------------------------------------------------------------------

signals=0 child='' code=0
declare -A first_at=()  # for each kind of signal, microseconds
is_trainer() { [ "$(readlink "/proc/$1/exe" 2>/dev/null)" = "$program_file" ]; }
program_file=$(realpath "$(command -v "$program")")
trainer_below() { # a process of the trainer that this one has started, or nothing
  local pid
  for pid in $(pgrep -P "$1" || true); do
    if is_trainer "$pid"; then echo "$pid"; else trainer_below "$pid"; fi
  done | sed -n 1p
}
# At a SIGTERM mpirun gives its processes one second, and srun none at all, too little to save: instead, one of them
# gets the signal and tells the others. ssh.sh passes the signal on.
on_signal() { # on_signal NAME
  local now=${EPOCHREALTIME/[.,]/}
  signals=$((signals + 1))
  first_at[$1]=${first_at[$1]:-$now}
  [ -n "$child" ] || return 0
  # As in the trainer: several kinds at once, or one twice within half a second, ask once.
  if [ $signals -gt 1 ] && ! [[ $1 =~ ^(INT|TERM)$ && $((now - first_at[$1])) -gt 500000 ]]; then return 0; fi
  local to=''
  if [ $signals = 1 ]; then
    say "a signal: the processes save and end"
    case $launcher in
      mpirun) to=$(trainer_below "$child") ;;
      srun) if scancel --signal=TERM "${SLURM_JOB_ID:-}"; then return 0; fi ;;  # the job's steps, not its script
    esac
  fi
  kill -TERM "${to:-$child}" 2>/dev/null || true
}
for name in INT TERM HUP USR1 XCPU; do
  # shellcheck disable=SC2064  # the name as it is now
  trap "on_signal $name" $name
done

alive=$(mktemp)
trap 'rm -f "$alive"' EXIT
find_hosts() { # writes those that answer to $alive, their slots to $slots
  local name rest count
  : >"$alive"
  slots=0
  while read -r name rest; do
    case $name in '' | '#'*) continue ;; esac
    if ! timeout 10 "${ssh[@]}" "$name" true </dev/null >/dev/null 2>&1; then
      say "$name does not answer: left out"
      continue
    fi
    count=$(sed -n 's/.*slots=\([0-9]\{1,\}\).*/\1/p' <<<"$rest")
    echo "$name slots=${count:-1}" >>"$alive"
    slots=$((slots + ${count:-1}))
  done <"$hosts"
}

# Starts "$@" as $processes processes and waits for the end: $code.
run_once() {
  local start=() before seen='' gone=0
  case $launcher in
    mpirun)
      start=(mpirun -n "$processes" --bind-to none)
      [ -z "$hosts" ] || start+=(--hostfile "$alive")
      start+=("${launcher_args[@]}" "$@") ;;
    ssh) start=("$here/ssh.sh" --hosts "$alive" -n "$processes" --ssh "${ssh[*]}" "${launcher_args[@]}" -- "$@") ;;
    srun)
      start=(srun -n "$processes" --kill-on-bad-exit=1 "${launcher_args[@]}")
      if [[ " ${launcher_args[*]} " = *" --mpi"* ]]; then
        start+=("$@")
      else  # from Slurm's variables: rank 0 is on the first machine of the step
        WROUGHT_TOKEN=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
        MASTER_PORT=$((10000 + (RANDOM % 20000)))
        export WROUGHT_TOKEN MASTER_PORT
        # shellcheck disable=SC2016  # for the shell of each task
        start+=(bash -c 'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_STEP_NODELIST" | sed -n 1p); exec "$@"'
          elastic "$@")
      fi ;;
  esac
  # In its own session, so that a terminal's Ctrl-C reaches only this script. A launcher may outlive its processes:
  # after the loss of a machine mpirun waits a quarter of an hour for it.
  code=0
  setsid "${start[@]}" </dev/null &
  child=$!
  if [ "$launcher" = mpirun ]; then
    while kill -0 "$child" 2>/dev/null; do
      sleep 1 &
      wait $! || true
      if [ -n "$(trainer_below "$child")" ]; then seen=1 gone=0; continue; fi
      [ -n "$seen" ] || continue
      gone=$((gone + 1))
      if [ $gone -ge 20 ]; then
        say "its processes have ended and mpirun has not: it is ended, too"
        kill -KILL "$child" 2>/dev/null || true
        break
      fi
    done
  fi
  while :; do  # a signal ends `wait`, not the child
    before=$signals code=0
    { wait "$child" || code=$?; } 2>/dev/null  # bash itself would print "Killed"
    [ "$before" != "$signals" ] || break
  done
  child=''
}
# 128 + the number of a signal that means "killed" or "crashed"; 205: mpirun has lost a machine. Not 143 and 130: those
# were requested.
is_lost() { case $1 in 75 | 134 | 135 | 136 | 137 | 139 | 205) return 0 ;; *) return 1 ;; esac; }

# ---- start, and start again ----------------------------------------------------------------------------------------

restarts=0 extra=()
where=(--run "$run")
[ -z "$resume" ] || where+=(--resume)
share='' slots=''
while :; do
  if [ -n "$hosts" ]; then
    find_hosts
    [ "$slots" -gt 0 ] || { say "no machine of $hosts answers"; exit 75; }
    if [ "$processes" -gt "$slots" ]; then
      if [ $restarts = 0 ]; then say "-n is $processes, but the machines that answer have $slots slots"; exit 1; fi
      processes=$slots
      while [ -n "$share" ] && [ $((share % processes)) != 0 ]; do processes=$((processes - 1)); done
    fi
  fi
  if [ $signals != 0 ]; then say "ended by a signal"; exit $code; fi
  say "$processes processes by $launcher: ${trainer[*]} ${where[*]}${extra[*]:+ ${extra[*]}}"
  run_once "${trainer[@]}" "${where[@]}" "${extra[@]}"
  if [ $signals != 0 ]; then
    say "ended by a signal, exit code $code"
    exit "$code"
  fi
  if [ "$code" = 0 ]; then
    [ $restarts = 0 ] || say "done, after $restarts restarts"
    exit 0
  fi
  if ! is_lost "$code"; then
    say "exit code $code is an error, not a lost process: not tried again"
    exit "$code"
  fi
  if [ $restarts -ge "$max_restarts" ]; then
    say "a process was lost (exit code $code) after $restarts restarts, as many as --max-restarts allows: given up"
    exit "$code"
  fi
  restarts=$((restarts + 1))
  # A rank 0 that another machine has lost sight of still holds the run's lock until it notices.
  if [ -e "$folder/lock" ] && command -v flock >/dev/null; then
    flock -w 30 "$folder/lock" true || say "another process still writes to $folder"
  fi

  # What it continues from.
  from=$(last_checkpoint) extra=()
  if [ -n "$from" ]; then
    where=(--run "$folder" --resume)
    [ -e "$folder/latest" ] || where=(--run "$from" --resume)
    what="from $from"
  elif [ -z "$was_empty" ]; then
    say "a process was lost (exit code $code), $folder has no checkpoint, and it held something before: look at it," \
      "then delete it or choose another --run"
    exit "$code"
  else
    where=(--run "$run")
    what="from the beginning: it had no checkpoint yet, so what it wrote to $folder is deleted"
  fi
  # How many processes.
  before=$processes share=$(micro_batches)
  if [ -z "$keep_size" ]; then
    if [ -z "$share" ]; then
      what="$what; with $processes processes again, as the size of a step was not yet known"
    elif [ "$processes" = 1 ]; then
      say "the only process was lost (exit code $code): none remains; --keep-size would start it again"
      exit "$code"
    else
      processes=$((processes - 1))
      while [ $((share % processes)) != 0 ]; do processes=$((processes - 1)); done
    fi
  fi
  if [ -z "$from" ]; then
    # The same step with fewer processes: without a flag it would be one micro-batch per process.
    total=$(number total-batch-tokens "$folder/metrics.jsonl")
    [ -z "$total" ] || [[ " ${trainer[*]}" = *" --total-batch-tokens"* ]] || extra=(--total-batch-tokens "$total")
    for trace in "${traces[@]}"; do rm -rf "${folder:?}/$trace"; done
  fi
  say "a process was lost (exit code $code); restart $restarts of at most $max_restarts in $wait_seconds s:" \
    "$processes processes instead of $before, $what"
  sleep "$wait_seconds" &
  pause=$!
  wait $pause || kill $pause 2>/dev/null || true
done
