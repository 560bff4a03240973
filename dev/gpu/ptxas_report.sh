#!/usr/bin/env bash
# Compiles every kernel with nvcc and prints what ptxas reports: registers and static shared memory, per kernel and
# architecture (docs/kernels.md names what a launch adds). Fails on a warning, a register spill, local memory (a stack
# frame), a message C75xx (wgmma serialised, setmaxnreg ignored: ptxas prints these as "info"), or a kernel that is not
# compiled.
#   dev/gpu/ptxas_report.sh [--keep DIR] [ARCH...]      default: sm_80 sm_90a
#   --keep DIR   leaves <source>.<arch>.cubin and .log in DIR; files newer than all sources are not recompiled
# Needs nvcc but no GPU; without nvcc it prints that and exits 77.
set -euo pipefail
work=
if [ "${1:-}" = --keep ]; then
  [ -n "${2:-}" ] || { echo "error: --keep needs a folder" >&2; exit 2; }
  mkdir -p "$2"
  work=$(cd "$2" && pwd)
  shift 2
fi
cd "$(dirname "$0")/../.."

nvcc=$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")
if [ ! -x "$nvcc" ]; then
  echo "skipped: no nvcc on PATH or in ${CUDA_HOME:-/usr/local/cuda}/bin; the kernels' registers and spills are not checked"
  exit 77
fi
archs=("$@")
[ ${#archs[@]} -gt 0 ] || archs=(sm_80 sm_90a)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
work=${work:-$tmp}

# To the object file: nvcc's pass for the host refuses some code that its pass for the GPU, and other compilers, take.
compile() { # compile NVCC WORK SOURCE ARCH
  local out=$2/$(basename "$3" .cu).$4
  [ -f "$out.cubin" ] && [ -z "$(find kernels llm tests/helpers "$3" dev/gpu/ptxas_report.sh "$1" -newer "$out.cubin" -print -quit)" ] && return
  rm -f "$out.cubin"
  mkdir -p "$out.kept"
  touch "$out.begun"
  "$1" -std=c++20 -O3 -I. -Xcompiler -Wall,-Wextra,-Wno-unknown-pragmas -gencode="arch=compute_${4#sm_},code=$4" \
    -Xptxas -v,-warn-spills -c -keep -keep-dir "$out.kept" -o "$out.kept/object.o" "$3" >"$out.log" 2>&1 ||
    { echo "error: $3 does not compile for $4:" >&2; grep -v '^ptxas info' "$out.log" >&2; exit 255; }
  mv "$out.kept/$(basename "$3" .cu).cubin" "$out.cubin"
  touch -r "$out.begun" "$out.cubin"  # a source changed since then is newer
  rm -r "$out.kept" "$out.begun"
}
export -f compile
logs=()
compile_all() { # compile_all SOURCE...: for each architecture
  local source arch
  for source in "$@"; do
    for arch in "${archs[@]}"; do
      printf '%s\0%s\0' "$source" "$arch"
      logs+=("$work/$(basename "$source" .cu).$arch.log")
    done
  done >"$tmp/jobs"
  xargs -0 -r -n 2 -P "${JOBS:-$(nproc)}" bash -c 'compile "$0" "$1" "$2" "$3"' "$nvcc" "$work" <"$tmp/jobs" || exit 1
}
# One line per entry function, into $tmp/report: arch, registers, shared bytes, stack bytes, spilled bytes, name.
report() {
  cat "${logs[@]}" | awk '
    /Compiling entry function/ { split($0, q, "\047"); name = q[2]; arch = q[4] }
    /bytes stack frame/ { stack = $1; spill = $5 + $9 }
    /Used [0-9]+ registers/ {
      registers = $5; shared = 0
      for (i = 1; i < NF; ++i) if ($(i + 1) == "bytes" && $(i + 2) ~ /^smem/) shared = $i
      if (name != "") print arch, name, registers, shared, stack, spill
      name = ""
    }' | sort -u | c++filt | awk '
    BEGIN { printf "%-8s %9s %12s %6s %6s  %s\n", "arch", "registers", "static shared", "stack", "spills", "kernel" }
    {
      n = NF; name = $2
      for (i = 3; i <= n - 4; ++i) name = name " " $i
      sub(/^void /, "", name); sub(/\(.*\)$/, "", name); gsub(/__nv_bfloat16/, "bf16", name)
      printf "%-8s %9s %12s %6s %6s  %s\n", $1, $(n - 3), $(n - 2), $(n - 1), $n, name
    }' >"$tmp/report"
}
missing() { dev/gpu/list_kernels.sh kernels | while read -r kernel; do grep -qw "$kernel" "$tmp/report" || echo "$kernel"; done; }

# llm/models/gpu_model.cu has the kernels as programs run them, and the tests instantiate the same ones again: so only
# tests with their own kernels are compiled, the test of residual connections (it has more types), and those that reach
# the header of a kernel that is in none of these.
sources=(llm/models/gpu_model.cu)
others=()
for test in tests/*/test_*.cu; do
  case $test in *test_cudasim*) continue ;; esac
  if grep -q __global__ "$test" || [ "$test" = tests/kernels/test_residual.cu ]; then sources+=("$test"); else others+=("$test"); fi
done
compile_all "${sources[@]}"
report
missing | while read -r kernel; do grep -lw "$kernel" kernels/*.cuh || true; done | sort -u >"$tmp/headers"
if [ -s "$tmp/headers" ]; then
  more=()
  for test in "${others[@]}"; do
    if "$nvcc" -std=c++20 -I. -MM "$test" | grep -qwFf "$tmp/headers"; then more+=("$test"); fi
  done
  compile_all "${more[@]}"
  report
fi
cat "$tmp/report"

failed=0
if grep -h -i "warning" "${logs[@]}"; then
  echo "error: nvcc warns (above)" >&2
  failed=1
fi
if grep -h '(C75[0-9][0-9])' "${logs[@]}" | c++filt; then
  echo "error: ptxas serialises wgmma or ignores setmaxnreg (above)" >&2
  failed=1
fi
if awk 'NR > 1 && ($4 > 0 || $5 > 0)' "$tmp/report" | grep .; then
  echo "error: these kernels spill registers or use local memory" >&2
  failed=1
fi
for kernel in $(missing); do
  echo "error: kernel $kernel is in kernels/ but nothing compiles it" >&2
  failed=1
done
exit $failed
