#!/usr/bin/env bash
# Starts a trainer on several machines using only ssh: no MPI, no Slurm. The variables that torchrun sets tell each
# process its rank. When one ends, all do.
#
#   apps/launch/ssh.sh --hosts hosts.txt -- build/train_gpt2cu --run runs/mine --model gpt2
#
#   --hosts FILE        a machine per line, "name slots=8", like mpirun's --hostfile; rank 0 is on the first. A line may
#                       be "user@name"
#   -n N                processes, the machines filled in their order (all slots)
#   --port N            where rank 0 listens (MASTER_PORT, else 29500)
#   --master-addr NAME  rank 0's machine as the others know it (MASTER_ADDR, else the first line's name)
#   --dir DIR           the folder to start in, the same everywhere (this one)
#   --ssh COMMAND       ("ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5": 15 s of silence end it)
#
# The machines need the program and the data in the same places, and the run's folder on a file system that they share.
# Variables that begin with NCCL_, CUDA_, CUDASIM_, OMP_ or WROUGHT_ are passed along. The outputs of the processes are
# not kept apart; only rank 0 reports the run's progress.
# SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGXCPU: all processes finish the step, save and end; at a second SIGINT or SIGTERM
# of the same kind all end at once. Exit code: 0, or the first nonzero one, or 75 (a process was lost, the run can
# continue) if any process has that.
set -euo pipefail

usage() {
  echo "error: $*" >&2
  echo "(apps/launch/ssh.sh --help lists the flags)" >&2
  exit 2
}

hosts='' processes='' port=${MASTER_PORT:-29500} master=${MASTER_ADDR:-} dir=$PWD
ssh=(ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5)
while [ $# -gt 0 ]; do
  flag=$1
  case $flag in
    --help | -h) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --) shift; break ;;
    --hosts | -n | --port | --master-addr | --dir | --ssh)
      [ -n "${2:-}" ] || usage "$flag needs a value"
      case $flag in
        --hosts) hosts=$2 ;;
        -n) processes=$2 ;;
        --port) port=$2 ;;
        --master-addr) master=$2 ;;
        --dir) dir=$2 ;;
        --ssh) read -ra ssh <<<"$2" ;;
      esac
      shift ;;
    *) usage "'$flag' is not a flag of this script; the trainer and its flags come after --" ;;
  esac
  shift
done
[ $# -ge 1 ] || usage "no trainer: ssh.sh --hosts hosts.txt -- build/train_gpt2cu --run runs/mine ..."
[ -n "$hosts" ] || usage "--hosts names the file of the machines"
[ -r "$hosts" ] || usage "--hosts $hosts cannot be read"
[[ $port =~ ^[0-9]{1,5}$ ]] || usage "--port is '$port', expected a number"

names=() counts=() slots=0
while read -r name rest; do
  case $name in '' | '#'*) continue ;; esac
  count=1
  if [ -n "$rest" ] && [[ $rest != '#'* ]]; then
    [[ $rest =~ ^slots=([1-9][0-9]{0,3})([[:space:]].*)?$ ]] || usage "$hosts: '$name $rest', expected 'name slots=8'"
    count=${BASH_REMATCH[1]}
  fi
  names+=("$name")
  counts+=("$count")
  slots=$((slots + count))
done <"$hosts"
[ ${#names[@]} -gt 0 ] || usage "$hosts names no machine"
processes=${processes:-$slots}
[[ $processes =~ ^[1-9][0-9]{0,5}$ ]] || usage "-n is '$processes', expected the number of processes"
[ "$processes" -le "$slots" ] || usage "-n is $processes, but the machines in $hosts have $slots slots"
first_name=${names[0]#*@}
master=${master:-$first_name}
export WROUGHT_TOKEN=${WROUGHT_TOKEN:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}

# ---- what runs on each machine -------------------------------------------------------------------------------------

# A script for `bash -s`. Its input stays open: a line "stop" sends the processes SIGTERM, "end" gives them 20 s to end
# by themselves (they print why), and the end of the input, or of the connection, sends SIGTERM and later SIGKILL. The
# token travels this way and not on a command line, where others would see it.
agent() { # agent FIRST_RANK LOCAL_SIZE COMMAND...
  local first=$1 local_size=$2 name
  shift 2
  echo '{'
  for name in $(compgen -e | grep -E '^(NCCL|CUDA|CUDASIM|OMP|WROUGHT)_' || true); do
    printf 'export %s=%q\n' "$name" "${!name}"
  done
  printf 'cd %q || exit 1\n' "$dir"
  printf 'export WORLD_SIZE=%d MASTER_ADDR=%q MASTER_PORT=%d LOCAL_WORLD_SIZE=%d\n' "$processes" "$master" "$port" "$local_size"
  printf 'first=%d command=(' "$first"
  printf '%q ' "$@"
  echo ')'
  cat <<'AGENT'
pids=() codes=()
for ((i = 0; i < LOCAL_WORLD_SIZE; i++)); do
  RANK=$((first + i)) LOCAL_RANK=$i "${command[@]}" </dev/null &
  pids+=($!)
done
code=0 left=$LOCAL_WORLD_SIZE deadline='' open=1
while [ $left -gt 0 ]; do
  if [ $open ]; then
    word=''
    read -r -t 0.3 word
    status=$?
    if [ $status -gt 0 ] && [ $status -le 128 ]; then
      open='' word=stop
      [ $deadline ] || deadline=$((SECONDS + 60))
    fi
    case $word in
      stop) kill -TERM "${pids[@]}" 2>/dev/null ;;
      end) [ $deadline ] || deadline=$((SECONDS + 20)) ;;
    esac
  else
    sleep 0.3
  fi
  if [ $deadline ] && [ $SECONDS -ge $deadline ]; then kill -KILL "${pids[@]}" 2>/dev/null; fi
  for i in "${!pids[@]}"; do
    kill -0 "${pids[i]}" 2>/dev/null && continue
    wait "${pids[i]}"
    status=$?
    unset "pids[i]"
    left=$((left - 1))
    if [ $status = 75 ] || [ $code = 0 ]; then code=$status; fi
    if [ $status != 0 ] && [ ! $deadline ]; then deadline=$((SECONDS + 20)); fi
  done
done
exit $code
}
AGENT
}

# ---- start, wait ---------------------------------------------------------------------------------------------------

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pids=() inputs=() used=() texts=()
rank=0
for i in "${!names[@]}"; do
  here=${counts[i]}
  [ "$here" -le $((processes - rank)) ] || here=$((processes - rank))
  [ "$here" -gt 0 ] || break
  used+=("${names[i]}")
  texts+=("$(agent "$rank" "$here" "$@")")
  rank=$((rank + here))
done
# All readers before the first writer: a reader that inherited another's input would keep it open. Separate sessions: a
# terminal's Ctrl-C is for this script, which passes it on.
for i in "${!used[@]}"; do
  mkfifo "$work/$i"
  setsid "${ssh[@]}" "${used[i]}" bash -s <"$work/$i" &
  pids+=($!)
done
tell() { # tell HOST WORD: does nothing if the host has gone
  (trap '' PIPE; echo "$2" >&"${inputs[$1]}") 2>/dev/null || true
}
signals=0
declare -A first_at=()  # for each kind of signal, microseconds
# shellcheck disable=SC2317  # by trap
on_signal() { # on_signal NAME
  local now=${EPOCHREALTIME/[.,]/} i
  signals=$((signals + 1))
  first_at[$1]=${first_at[$1]:-$now}
  # As in the trainer: several kinds at once, or one twice within half a second, ask once.
  if [ $signals -gt 1 ] && ! [[ $1 =~ ^(INT|TERM)$ && $((now - first_at[$1])) -gt 500000 ]]; then return 0; fi
  for i in "${!pids[@]}"; do tell "$i" stop; done
}
for name in INT TERM HUP USR1 XCPU; do
  # shellcheck disable=SC2064  # the name as it is now
  trap "on_signal $name" $name
done
trap '' PIPE
for i in "${!used[@]}"; do
  exec {input}>"$work/$i"
  inputs+=("$input")
  { printf '%s\n' "${texts[i]}" 1>&"$input"; } 2>/dev/null || true
done

code=0 ending='' left=${#pids[@]}
while [ "$left" -gt 0 ]; do
  sleep 0.3 &
  wait $! || true
  for i in "${!pids[@]}"; do
    ! kill -0 "${pids[i]}" 2>/dev/null || continue
    status=0
    wait "${pids[i]}" || status=$?
    unset "pids[i]"
    left=$((left - 1))
    if [ $status = 0 ]; then continue; fi
    case $status in
      255) echo "ssh.sh: no connection to ${used[i]}, or it broke" >&2 ;;
      *) [ -n "$ending" ] || echo "ssh.sh: exit code $status on ${used[i]}: all end" >&2 ;;
    esac
    if [ $status = 75 ] || [ $code = 0 ]; then code=$status; fi
    if [ -z "$ending" ]; then
      ending=1
      for j in "${!pids[@]}"; do tell "$j" end; done
    fi
  done
done
exit "$code"
