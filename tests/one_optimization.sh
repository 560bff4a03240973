#!/usr/bin/env bash
# No inline function of kernels/ may be compiled at two optimisation levels into one executable: the linker would keep
# either, and a test would check code that no program runs, or run it ten times slower.
#   tests/one_optimization.sh BUILD_FOLDER
set -euo pipefail
build=${1:?usage: tests/one_optimization.sh BUILD_FOLDER}
inline() { nm -C --defined-only "$@" 2>/dev/null | sed -n 's/^[0-9a-f]* [WVu] //p' | grep -E '\bcpu::' | sort -u || true; }
library=$(inline "$build"/CMakeFiles/wrought_*.dir/llm/*/*.o)
[ -n "$library" ] || { echo "error: $build/CMakeFiles/wrought_*.dir has no inline function of kernels/" >&2; exit 1; }
# Objects not compiled at the library's level: the fast kernels, programs, the other tests.
others=("$build"/CMakeFiles/{wrought_kernels.dir/kernels/cpu,*.dir/apps,book.dir/apps/book,train_gpt2.dir}/*.o)
if [ -f "$build/CMakeFiles/test_library.dir/link.txt" ]; then  # stale objects may lie next to them
  mapfile -t -O ${#others[@]} others < <(tr ' ' '\n' <"$build/CMakeFiles/test_library.dir/link.txt" | grep '/tests/.*\.o$' | sed "s|^|$build/|")
else
  others+=("$build"/CMakeFiles/test_library.dir/tests/*/*.o)
fi
[ ${#others[@]} -gt 50 ] || { echo "error: $build has only ${#others[@]} objects to check" >&2; exit 1; }
failed=0
for object in "${others[@]}"; do
  case $object in
    */kernels/*) both=$(inline "$object" | grep -vE 'cpu::(portable|avx2|avx512|avx512_bf16)::' || true) ;;  # only in these
    *) both=$(comm -12 <(echo "$library") <(inline "$object")) ;;
  esac
  if [ -n "$both" ]; then
    echo "error: ${object#"$build"/CMakeFiles/} and the library have different optimisation levels, but both have:" >&2
    echo "$both" | head -n 5 >&2
    failed=1
  fi
done
[ $failed -eq 0 ] && echo "${#others[@]} objects have no copy of an inline function of kernels/"
exit $failed
