#!/usr/bin/env bash
# Compiles every kernel with nvcc and prints what ptxas reports: registers and static shared memory, per kernel and
# architecture (what a launch asks for besides is in the kernels' page). Fails on a warning, a register spill, local memory (a stack frame), or a kernel that is not compiled.
#   dev/ptxas_report.sh [ARCH...]          default: sm_80 sm_90a
# Needs nvcc but no GPU; without nvcc it says so and exits 77.
set -euo pipefail
cd "$(dirname "$0")/.."

nvcc=$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")
if [ ! -x "$nvcc" ]; then
  echo "skipped: no nvcc on PATH or in ${CUDA_HOME:-/usr/local/cuda}/bin; the kernels' registers and spills are not looked at"
  exit 77
fi
archs=("$@")
[ ${#archs[@]} -gt 0 ] || archs=(sm_80 sm_90a)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# gpt2/model.cu has the kernels as they train; the tests have those that only programs of other kinds use.
sources=(gpt2/model.cu)
for test in tests/test_*.cu; do
  case $test in *test_cudasim*) ;; *) sources+=("$test") ;; esac
done
compile() { # compile NVCC SOURCE ARCH WORK
  local name out
  name=$(basename "$2" .cu).$3
  out=$4/$name.log
  "$1" -std=c++20 -O3 -I. -Xcompiler -Wall,-Wextra,-Wno-unknown-pragmas -arch="$3" -Xptxas -v,-warn-spills -cubin -o "$4/$name.cubin" "$2" \
    > "$out" 2>&1 || { echo "error: $2 does not compile for $3:" >&2; grep -v '^ptxas info' "$out" >&2; exit 255; }
}
export -f compile
for source in "${sources[@]}"; do
  for arch in "${archs[@]}"; do printf '%s\0%s\0' "$source" "$arch"; done
done | xargs -0 -n 2 -P "${JOBS:-$(nproc)}" bash -c 'compile "$0" "$2" "$3" "$1"' "$nvcc" "$work"

# One line an entry function: arch, mangled name, registers, shared bytes, stack bytes, spilled bytes.
cat "$work"/*.log | awk '
  /Compiling entry function/ { split($0, q, "\047"); name = q[2]; arch = q[4] }
  /bytes stack frame/ { stack = $1; spill = $5 + $9 }
  /Used [0-9]+ registers/ {
    registers = $5; shared = 0
    for (i = 1; i < NF; ++i) if ($(i + 1) == "bytes" && $(i + 2) ~ /^smem/) shared = $i
    if (name != "") print arch, name, registers, shared, stack, spill
    name = ""
  }' | sort -u > "$work/table"
c++filt < "$work/table" | awk '
  BEGIN { printf "%-8s %9s %12s %6s %6s  %s\n", "arch", "registers", "static shared", "stack", "spills", "kernel" }
  {
    n = NF; name = $2
    for (i = 3; i <= n - 4; ++i) name = name " " $i
    sub(/^void /, "", name); sub(/\(.*\)$/, "", name); gsub(/__nv_bfloat16/, "bf16", name)
    printf "%-8s %9s %12s %6s %6s  %s\n", $1, $(n - 3), $(n - 2), $(n - 1), $n, name
  }' | tee "$work/report"

failed=0
if grep -h -i "warning" "$work"/*.log; then
  echo "error: nvcc warns (above)" >&2
  failed=1
fi
if awk 'NR > 1 && ($4 > 0 || $5 > 0)' "$work/report" | grep .; then
  echo "error: these kernels spill registers or use local memory" >&2
  failed=1
fi
while read -r kernel; do
  grep -qw "$kernel" "$work/report" || { echo "error: kernel $kernel is in kernels/ but nothing compiles it" >&2; failed=1; }
done < <(dev/list_kernels.sh kernels)
exit $failed
