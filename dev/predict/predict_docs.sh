#!/usr/bin/env bash
# Prints docs/performance.md with the tables that build/predict makes, made anew; --write puts them into the file.
#   dev/predict/predict_docs.sh [--write] [PREDICT]        default: build/predict
# A table stands below a line  <!-- predict FLAGS | HEADING=VALUE,VALUE...; HEADING=VALUE -->  whose headings are columns
# added on the right: a value for each row in turn, or one for all.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
write=
[ "${1:-}" = --write ] && { write=1; shift; }
predict=${1:-$root/build/predict}
[ -x "$predict" ] || { echo "error: $predict is not there; make builds it, or give its path" >&2; exit 1; }
doc=$root/docs/performance.md
anew=$(mktemp)
trap 'rm -f "$anew"' EXIT

awk -v predict="$predict" '
  function fill(line, n,   i, k, pair, values) {  # the n-th line of a table: heading, rule, rows
    for (i = 1; i <= split(columns, pair, "; *"); ++i) {
      k = index(pair[i], "=")
      if (n == 1) line = line " " substr(pair[i], 1, k - 1) " |"
      else if (n == 2) line = line "---:|"
      else {
        k = split(substr(pair[i], k + 1), values, ",")
        line = line " " values[(n - 3) % k + 1] " |"
      }
    }
    return line
  }
  skipping && (/^\|/ || $0 == "") { next }
  { skipping = 0; print }
  /^<!-- predict .*-->$/ {
    command = $0
    sub(/^<!-- predict */, "", command); sub(/ *-->$/, "", command)
    columns = command
    if (!sub(/^[^|]*\| */, "", columns)) columns = ""
    sub(/ *\|.*/, "", command)
    command = "\"" predict "\" --markdown " command
    print ""
    n = 0
    while ((command | getline line) > 0) if (line ~ /^\|/) print fill(line, ++n)
    print ""
    if (close(command) != 0 || n < 3) { print "error: " command > "/dev/stderr"; exit 1 }
    skipping = 1
  }' "$doc" >"$anew"
if [ -n "$write" ]; then cat "$anew" >"$doc"; else cat "$anew"; fi
