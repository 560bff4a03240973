#!/usr/bin/env bash
# Checks whether the kernels give the same bits as those of another commit: builds dev/kernel_bits.cu with both for
# cudasim and compares what they print. For a change that should only be faster.
#   dev/same_bits.sh COMMIT [EXPECTED]     EXPECTED: a pattern (grep -E) of outputs that may differ, such as
#                                          '^layernorm_backward|^classifier_backward.* dlogits'
# Prints each output that differs; exit code 1 if an unexpected one differs, or if none of the expected ones does.
set -euo pipefail
[ $# -ge 1 ] && [ $# -le 2 ] || { sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cd "$(dirname "$0")/.."
git rev-parse --verify --quiet "$1^{commit}" >/dev/null || { echo "error: '$1' is not a commit of this repository" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/other"
git archive "$1" kernels dev/cudasim | tar -x -C "$work/other"

build() { # build SOURCE_FOLDER PROGRAM
  printf '#include "%s/dev/kernel_bits.cu"\n' "$PWD" >"$2.cpp"
  g++ -std=c++20 -O2 -DWROUGHT_CUDASIM=1 -I"$1/dev/cudasim/include" -I"$1" -w -fopenmp "$2.cpp" "$1"/dev/cudasim/*.cpp -o "$2" \
    -lboost_context -lbacktrace -pthread
}
build "$work/other" "$work/before" & before=$!
build . "$work/after"
wait $before
# One line per output: "operation sizes tensor hash".
lines() { "$1" | awk -F ' [|] ' '{ for (i = 2; i <= NF; ++i) print $1 " " $i }'; }
lines "$work/before" >"$work/before.txt" & before=$!
lines "$work/after" >"$work/after.txt"
wait $before

count=$(wc -l <"$work/after.txt")
[ "$count" -gt 0 ] && [ "$count" -eq "$(wc -l <"$work/before.txt")" ] || { echo "error: the two programs print different outputs" >&2; exit 1; }
paste -d'\n' "$work/before.txt" "$work/after.txt" | awk 'NR % 2 { before = $0; next } $0 != before { sub(/ [0-9a-f]+$/, ""); print }' \
  >"$work/differ.txt"
cat "$work/differ.txt"
echo "$count outputs, $(wc -l <"$work/differ.txt") differ from those of $1"
if [ $# -eq 2 ]; then
  grep -qE "$2" "$work/differ.txt" || { echo "error: nothing that matches '$2' differs: expect less" >&2; exit 1; }
  ! grep -vE "$2" "$work/differ.txt" || { echo "error: these were not expected to differ" >&2; exit 1; }
else
  [ ! -s "$work/differ.txt" ]
fi
