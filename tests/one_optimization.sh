#!/usr/bin/env bash
# No inline function of kernels/ is compiled at two optimisation levels into one executable of the tests: the linker would
# keep either, and a test would look at code that no program runs, or run it ten times slower.
#   tests/one_optimization.sh BUILD_FOLDER
set -euo pipefail
build=${1:?usage: tests/one_optimization.sh BUILD_FOLDER}
inline() { nm -C --defined-only "$@" 2>/dev/null | sed -n 's/^[0-9a-f]* [WVu] //p' | grep -E '\bcpu::' | sort -u; }
library=$(inline "$build/libgpt2.a") # at the level of programs
[ -n "$library" ] || { echo "error: $build/libgpt2.a has no inline function of kernels/" >&2; exit 1; }
failed=0
for object in "$build"/CMakeFiles/test_library.dir/tests/*.o "$build"/CMakeFiles/test_sim.dir/sim/*.o; do
  both=$(comm -12 <(echo "$library") <(inline "$object"))
  if [ -n "$both" ]; then
    echo "error: $(basename "$object") and libgpt2.a, of another optimisation level, both have:" >&2
    echo "$both" | head -n 5 >&2
    failed=1
  fi
done
exit $failed
