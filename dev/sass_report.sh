#!/usr/bin/env bash
# Disassembles the kernels as they train (gpt2/model.cu, sm_90a) and holds what their machine code does against
# dev/sass_budget.json: loads under way, instructions and moves of a pass through the main loop, widths of stores to shared
# memory; no local memory and no integer division in loops. dev/sass_report.py says how each is counted. cudasim cannot see
# any of it: a load that waits for another asks for the same bytes.
#   dev/sass_report.sh [--cubin FILE] [PATTERN]    prints the kernels whose names match PATTERN (Python's; all)
#   --cubin FILE   what dev/ptxas_report.sh --keep left (model.sm_90a.cubin), instead of compiling here
# Needs nvcc and python3 but no GPU, and a disassembler: nvdisasm or cuobjdump of the CUDA toolkit, on PATH or named by
# NVDISASM, or PyPI's triton package, which carries one (installed, or unpacked: PYTHONPATH). Without, it prints that and
# exits 77.
set -euo pipefail
cubin=
if [ "${1:-}" = --cubin ]; then
  [ -f "${2:-}" ] || { echo "error: --cubin ${2:-}: no such file; dev/ptxas_report.sh --keep DIR leaves it" >&2; exit 2; }
  cubin=$(realpath "$2")
  shift 2
fi
case ${1:-} in
  -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0 ;;
  -*) echo "error: '$1' is not a flag of this script; --help lists them" >&2; exit 2 ;;
esac
[ $# -le 1 ] || { echo "error: expected one pattern, got $#; --help has the usage" >&2; exit 2; }
pattern=${1:-}
cd "$(dirname "$0")/.."
skip() { echo "skipped: $*; the kernels' machine code is not looked at"; exit 77; }

python=${PYTHON:-python3}
command -v "$python" >/dev/null || skip "no $python"
nvcc=$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")
[ -x "$nvcc" ] || skip "no nvcc on PATH or in ${CUDA_HOME:-/usr/local/cuda}/bin"
# Where Python's import of triton would find its tools, without importing it.
wheel_tools() {
  "$python" -c 'import importlib.util, os
spec = importlib.util.find_spec("triton")
for folder in (spec.submodule_search_locations if spec and spec.submodule_search_locations else []):
    print(os.path.join(folder, "backends", "nvidia", "bin"))' 2>/dev/null || true
}
disassembler=
for tool in "${NVDISASM:-}" "$(command -v nvdisasm)" "$(dirname "$nvcc")/nvdisasm" "$(wheel_tools)/nvdisasm" \
  "$(command -v cuobjdump)" "$(dirname "$nvcc")/cuobjdump"; do
  [ -n "$tool" ] && [ -x "$tool" ] && { disassembler=$tool; break; }
done
[ -n "$disassembler" ] || skip "no nvdisasm or cuobjdump on PATH, with nvcc or in PyPI's triton package"
flag=-c
case $(basename "$disassembler") in cuobjdump*) flag=-sass ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -z "$cubin" ]; then
  cubin=$work/model.cubin
  "$nvcc" -std=c++20 -O3 -I. -gencode=arch=compute_90a,code=sm_90a -cubin -o "$cubin" gpt2/model.cu
fi
"$disassembler" $flag "$cubin" >"$work/sass" || { echo "error: $disassembler $flag $cubin failed (above)" >&2; exit 1; }
version=$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
"$python" dev/sass_report.py dev/sass_budget.json "$version" "$pattern" <"$work/sass"
