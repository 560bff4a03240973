#!/usr/bin/env bash
# Do the tests see a missing barrier? Deletes each __syncthreads, __syncwarp and cp_async_wait of a kernel file in turn,
# builds the test against that copy, runs it in cudasim, and expects it to fail. Prints one line per deletion; exits 1
# if a test passed without one of them.
#   dev/delete_barriers.sh kernels/layernorm.cuh test_layernorm_sim [ARGUMENTS OF THE TEST...]
# Wants a configured build folder (BUILD, default: build). Half a minute a line: the test is compiled anew each time.
set -euo pipefail
file=${1:?usage: dev/delete_barriers.sh KERNEL_FILE TEST [ARGUMENTS...]}
test=${2:?usage: dev/delete_barriers.sh KERNEL_FILE TEST [ARGUMENTS...]}
shift 2
cd "$(dirname "$0")/.."
build=${BUILD:-build}
commands=$build/compile_commands.json
[ -f "$commands" ] || { echo "error: $commands is missing; configure first: cmake -S . -B $build" >&2; exit 1; }
cmake --build "$build" --target "$test" -j 2 > /dev/null
"$build/$test" "$@" > /dev/null || { echo "error: $test fails as it is" >&2; exit 1; }

source=sim/tests_${test%_sim}.cu.cpp
compile=$(grep -o '"command": ".*'"$source"'"' "$commands" | sed 's/^"command": "//; s/"$//; s/\\"/"/g; s/\\\\/\\/g' | head -n 1)
[ -n "$compile" ] || { echo "error: $commands does not say how $source is compiled" >&2; exit 1; }
link=$(cat "$build/CMakeFiles/$test.dir/link.txt")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

survived=0
while IFS=: read -r line text; do
  rm -rf "$work/kernels" && cp -r kernels "$work/kernels"
  sed -i "${line}s/__syncthreads();\|__syncwarp();\|cp_async_wait<[^>]*>();/;/" "$work/$file"
  object=$work/test.o
  # The copy comes first on the include path; -w: a variable may be unused now.
  (cd "$build" && eval "$(sed "s| -o [^ ]*| -w -o $object|; s| -I| -I$work -I|" <<<"$compile")")
  (cd "$build" && eval "$(sed "s|[^ ]*$source\.o|$object|; s| -o [^ ]*| -o $work/test|" <<<"$link")")
  if CUDASIM_KERNELS=$work/ran.txt timeout 900 "$work/test" "$@" > "$work/log" 2>&1; then
    echo "SURVIVED $file:$line: $(sed 's/^ *//' <<<"$text")"
    survived=1
  else
    echo "seen     $file:$line: $(sed 's/^ *//' <<<"$text")"
  fi
done < <(grep -nE '^[^/]*(__syncthreads\(\);|__syncwarp\(\);|cp_async_wait<[^>]*>\(\);)' "$file")
exit $survived
