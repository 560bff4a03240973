# How dev/gpu/gpu_check.sh, which sources this, runs programs and records their results. It uses these variables: work,
# logs, rows, out (folders); end (the second in which the script ends); sim, build, device, driver, date, commit; and,
# for the table, steps, warmup, rounds.

# ---- running -------------------------------------------------------------------------------------------------------

stage_end=$end
problems=() notes=() partial=  # of the current stage: failures; what was left out, and why; whether for lack of time
left() { echo $((stage_end < end ? stage_end - SECONDS : end - SECONDS)); }
enough() { # enough SECONDS WHAT: whether that many are left for it; if not, notes it
  [ "$(left)" -ge "$1" ] && return 0
  note "$2: left out, it takes about $1 s and $(left) are left"
  partial=1
  return 1
}
problem() {
  problems+=("$*")
  echo "FAILED: $*"
}
note() {
  notes+=("$*")
  echo "$*"
}

# Every command runs in its own process group, whose number is a name in children/: groups that exist when this script
# ends, however it ends, are killed, by itself or by the guard.
spawn() { # spawn COMMAND...: in the background, as the group $child
  set -m
  "$@" &
  child=$!
  set +m
  : >"$work/children/$child"
}
reap() { # reap GROUP: waits for it; returns its exit code; kills what it left running
  local code=0
  wait "$1" 2>/dev/null || code=$?
  kill -KILL -- "-$1" 2>/dev/null
  rm -f "$work/children/$1"
  return $code
}
end_group() {
  kill -CONT -- "-$1" 2>/dev/null
  kill -KILL -- "-$1" 2>/dev/null
  reap "$1"
}
end_children() {
  local group
  for group in "$work"/children/[0-9]*; do
    [ -e "$group" ] || continue
    kill -KILL -- "-${group##*/}" 2>/dev/null
    rm -f "$group"
  done
}
guard() { # guards the script: in a group that is not among the children
  while kill -0 $$ 2>/dev/null; do sleep 0.5; done
  end_children
}

# run NAME SECONDS COMMAND...: logs to logs/NAME.log, while there is time; a failure fails the stage and shows the log.
# With ROWS=KIND the command's output, lines of JSON, becomes rows of that kind, in results.json as it arrives; with
# RENEW=1 the command writes the rows itself.
run() {
  local name=$1 seconds=$2 code=0 started=$SECONDS log=$logs/$1.log kind=${ROWS:-} seen='' now
  shift 2
  [ "$(left)" -lt "$seconds" ] && seconds=$(left)
  [ "$seconds" -ge 1 ] || { problem "$name: no time is left for it"; return 1; }
  if [ -n "$kind" ]; then
    spawn timeout -k 2 "$seconds" "$@" >"$rows/$kind.jsonl" 2>"$log" </dev/null
  else
    spawn timeout -k 2 "$seconds" "$@" >"$log" 2>&1 </dev/null
  fi
  if [ -n "$kind${RENEW:-}" ]; then
    while kill -0 "$child" 2>/dev/null; do
      sleep 0.3
      now=$(cat "$rows"/*.jsonl 2>/dev/null | wc -c)
      [ "$now" = "$seen" ] || write_results
      seen=$now
    done
  fi
  reap "$child" || code=$?
  [ -z "$kind${RENEW:-}" ] || write_results
  [ $code -eq 0 ] && return 0
  tail -n 30 "$log"
  if [ $code -eq 124 ] || [ $code -eq 137 ]; then
    problem "$name: stopped after $((SECONDS - started)) s"
  else
    problem "$name: exit code $code from $(basename "$1")"
  fi
  return 1
}

row() { # row KIND JSON
  echo "$2" >>"$rows/$1.jsonl"
  write_results
}
forget() { # forget KIND...: deletes the rows of an earlier call or attempt
  local kind
  for kind in "$@"; do rm -f "$rows/$kind.jsonl"; done
}
have() { grep -qs "$2" "$rows/$1.jsonl"; } # have KIND REGEX: an earlier call measured it
text() { # text STRING: in JSON
  local s=${1//\\/\\\\}
  s=${s//\"/\\\"}
  printf '"%s"' "$(tr -d '\000-\037' <<<"$s")"
}
rounded() { [ -z "$1" ] || awk -v x="$1" -v n="$2" 'BEGIN { printf "%.*f", n, x }'; } # rounded X DIGITS
number() { [[ $1 =~ ^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$ ]] && echo "$1" || echo null; }
median() { sort -g | awk '{ a[NR] = $1 } END { if (NR) print NR % 2 ? a[(NR + 1) / 2] : (a[NR / 2] + a[NR / 2 + 1]) / 2 }'; }
losses() { sed -n 's/.*"loss":\([^,}]*\).*"step":\([0-9]*\).*/\2 \1/p' "$1/metrics.jsonl"; }

# need TARGET: whether it is built by now; the background builds it, or has built it
rest='' torch_job='' llmc_job='' built=1
need() {
  local started=$SECONDS
  while [ -n "$rest" ] && [ ! -e "$work/built/$1" ]; do
    if ! kill -0 "$rest" 2>/dev/null; then
      reap "$rest"
      rest=
    elif [ "$(left)" -lt 3 ]; then
      note "skipped: $1 is still being built after $((SECONDS - started)) s"
      partial=1
      return 1
    else
      sleep 0.3
    fi
  done
  if [ "$(cat "$work/built/$1" 2>/dev/null)" = failed ]; then
    tail -n 20 "$logs/compile_$1.log"
    problem "compile_$1: it does not build"
  elif [ -x "$build/$1" ]; then
    return 0
  else
    note "skipped: $build/$1 is not there"
  fi
  return 1
}
build_rest() { # build_rest JOBS TARGET...: one after another, on the cores' idle time
  local jobs=$1 target result
  shift
  for target in "$@"; do
    result=failed
    nice -n 19 cmake --build "$build" -j "$jobs" --target "$target" >"$logs/compile_$target.log" 2>&1 </dev/null && result=built
    echo $result >"$work/built/.$target"
    mv "$work/built/.$target" "$work/built/$target"
  done
}
# ---- what is written -----------------------------------------------------------------------------------------------

kinds="libraries ceilings load choices repeat breakdown memory products attention steps peers torch_losses rounding train stages"
write_results() { # lines that a program had no time to finish are left out
  {
    echo "{\"device\": $(text "$device"), \"simulated\": $([ -n "$sim" ] && echo true || echo false), \"driver\": $(text "$driver"),"
    echo " \"date\": \"$date\", \"commit\": $(text "$commit"), \"seconds\": $((SECONDS - began)),"
    awk -v kinds="$kinds" -v folder="$rows" 'BEGIN {
      n = split(kinds, kind, " ")
      for (i = 1; i <= n; ++i) {
        printf " \"%s\": [", kind[i]
        comma = ""
        while ((getline line < (folder "/" kind[i] ".jsonl")) > 0) {
          if (line ~ /^\{.*\}$/) { printf "%s%s", comma, line; comma = ",\n  " }
        }
        print "],"
      }
    }'
    echo " \"cpu\": $([ -s "$rows/bench_cpu.json" ] && cat "$rows/bench_cpu.json" || echo null),"
    echo " \"bench\": $([ -s "$logs/bench.json" ] && cat "$logs/bench.json" || echo null)}"
  } >"$out/results.json.tmp" && mv "$out/results.json.tmp" "$out/results.json"
}
section() { # section KIND TITLE "COLUMN|COLUMN..." FIELD...: a table of the rows of a kind, if there are any
  local kind=$1 title=$2 columns=$3
  shift 3
  [ -s "$rows/$kind.jsonl" ] || return 0
  printf '\n%s\n\n| %s |\n|%s\n' "$title" "${columns//|/ | }" "$(printf -- '---|%.0s' "$@")"
  table "$kind" "$@"
}
table() { # table KIND FIELD...: a Markdown line per row; null becomes empty
  local kind=$1
  shift
  awk -v fields="$*" '
    BEGIN { n = split(fields, field, " ") }
    !/^\{.*\}$/ { next }
    {
      printf "|"
      for (i = 1; i <= n; ++i) {
        value = ""
        if (match($0, "\"" field[i] "\": ?(\"[^\"]*\"|[^,}]*)")) {
          value = substr($0, RSTART + length(field[i]) + 3, RLENGTH - length(field[i]) - 3)
          sub(/^ /, "", value)
          gsub(/"/, "", value)
          gsub(/\|/, "/", value)
          if (value == "null") value = ""
          if (length(value) > 8 && value ~ /^-?[0-9.]+(e[-+]?[0-9]+)?$/ && value ~ /[.e]/) value = sprintf("%.5g", value)
        }
        printf " %s |", value
      }
      print ""
    }' "$rows/$kind.jsonl"
}
write_table() {
  local predicted=predicted_h100_ms  # for a table that also has real times
  [ -z "$sim" ] || predicted=
  {
    echo "# $device, $date, commit $commit"
    [ -z "$sim" ] || printf '\ncudasim in place of a GPU: every time below is that of the simulation, on the CPU.\n'
    section stages "Stages:" "stage|status|s|commit|" stage status seconds commit why
    section ceilings "Memory:" "what|us|GB/s" what us gbps | grep -v '|  |$'
    section ceilings "Launches (the host's time for one; from one to the next on the GPU; launch and wait for its end) and events, us:" \
      "what|host|dependent|round trip|resolution|nothing between two" \
      what host_us dependent_us round_trip_us resolution_us empty_us | grep -v '^| \(device\|copy\|read\|write\|product\) '
    section load "Products under full load:" "data|by|n|TFLOP/s|watts|SM MHz|memory MHz|deg C|samples" \
      data tier n tflops watts sm_mhz memory_mhz celsius samples
    section steps "A step (median of $((steps - warmup))):" \
      "model|precision|B|T|ms|tokens/s|% of peak|peak TFLOP/s${predicted:+|predicted for an H100, ms}" \
      model precision batch_size seq_len ms tokens_per_second share_of_peak_percent peak_tflops $predicted
    section peers "Alternating, ms per step (median of $rounds rounds' medians):" "peer|model|precision|B|T|ours|the peer" \
      peer model precision batch_size seq_len ours_ms peer_ms
    section breakdown "A step of $(cat "$work/breakdown_of" 2>/dev/null), kernel by kernel:" "kernel|launches|us|share" \
      kernel launches us share
    section memory "Kernels that memory limits (share: of the copy rate measured in the same run):" \
      "operation|size|version|us|GB/s|share" operation size name us gbps share
    section products "Products (difference: relative, from the first tier's result):" "model|layer|pass|by|us|TFLOP/s|difference" \
      model layer pass tier us tflops difference
    section attention "Attention:" "B|NH|T|HS|pass|by|us|TFLOP/s|difference" B NH T HS pass tier us tflops difference
    section rounding "Errors of sums of K products, in units of 2^-24 times the sum of their magnitudes; above 0: too large:" \
      "factors|by|K|largest|mean" factors by K largest mean
    section repeat "Two runs, bit for bit:" "model|precision|B|T|steps|losses equal|weights equal" \
      model precision batch_size seq_len steps equal_losses equal_weights
    section train "The losses of ten steps, the largest difference from the CPU:" "precision|" precision largest_difference
    section choices "Which kernels run:" "" line
    section libraries "Libraries:" "" line
  } >"$out/table.md.tmp" && mv "$out/table.md.tmp" "$out/table.md"
}
# At most 15 MB, whatever the programs printed: only the end of long logs.
write_logs() {
  local most bytes
  for most in 2000000 200000 20000; do
    rm -rf "$work/packed"
    mkdir -p "$work/packed/logs"
    (cd "$logs" && for file in *; do [ -f "$file" ] && tail -c $most "$file" >"$work/packed/logs/$file"; done)
    tar -czf "$out/logs.tar.gz.tmp" -C "$work/packed" logs 2>/dev/null
    bytes=$(wc -c <"$out/logs.tar.gz.tmp")
    [ "$bytes" -gt 15000000 ] || break
  done
  rm -rf "$work/packed"
  mv "$out/logs.tar.gz.tmp" "$out/logs.tar.gz"
}
write_all() {
  write_results
  write_table
  write_logs
}
