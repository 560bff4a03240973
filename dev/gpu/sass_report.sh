#!/usr/bin/env bash
# Disassembles the kernels as they train (llm/models/gpu_model.cu, sm_90a) and compares their machine code with
# dev/gpu/sass_budget.json: loads under way, instructions and moves per pass through the main loop, widths of stores to
# shared memory; no local memory, no integer division in loops, and nothing that the compiler moved before the wait for
# earlier kernels. dev/gpu/sass_report.py defines how each is counted.
# cudasim cannot see any of it: a load that waits for another requests the same bytes.
#   dev/gpu/sass_report.sh [--cubin FILE] [PATTERN]    prints the kernels whose names match PATTERN (a Python regex)
#   --cubin FILE   a file that dev/gpu/ptxas_report.sh --keep left (gpu_model.sm_90a.cubin), instead of compiling here
#   dev/gpu/sass_report.sh --fetch     gets a disassembler out of PyPI's triton package (300 MB) into .deps/tools
# Needs nvcc and python3 but no GPU, and a disassembler: nvdisasm or cuobjdump, named by NVDISASM, on PATH, next to
# nvcc, in .deps/tools or in an installed triton package. Without one it prints that and exits 77.
set -euo pipefail
cubin='' fetch=''
case ${1:-} in
  -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0 ;;
  --fetch) fetch=1; shift ;;
  --cubin)
    [ -n "${2:-}" ] || { echo "error: --cubin needs a file" >&2; exit 2; }
    cubin=$(realpath -m "$2")
    shift 2 ;;
esac
case ${1:-} in -*) echo "error: '$1' is not a flag of this script; --help lists them" >&2; exit 2 ;; esac
[ $# -le 1 ] || { echo "error: expected one pattern, got $#; --help has the usage" >&2; exit 2; }
pattern=${1:-}
cd "$(dirname "$0")/../.."
skip() { echo "skipped: $*; the kernels' machine code is not checked"; exit 77; }

python=${PYTHON:-python3}
if [ -n "$fetch" ]; then
  [ ! -x .deps/tools/nvdisasm ] || exit 0
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  "$python" -m pip download -q --no-deps -d "$work" triton
  mkdir -p .deps/tools
  "$python" - "$work" .deps/tools/nvdisasm <<'PYTHON'
import glob, os, sys, zipfile
with zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0]) as wheel:
    name = next(n for n in wheel.namelist() if n.endswith("/bin/nvdisasm"))
    with open(sys.argv[2] + ".new", "wb") as out:
        out.write(wheel.read(name))
os.chmod(sys.argv[2] + ".new", 0o755)
os.rename(sys.argv[2] + ".new", sys.argv[2])
PYTHON
  exit 0
fi
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
for tool in "${NVDISASM:-}" "$(command -v nvdisasm || true)" "$(dirname "$nvcc")/nvdisasm" .deps/tools/nvdisasm \
  "$(wheel_tools)/nvdisasm" "$(command -v cuobjdump || true)" "$(dirname "$nvcc")/cuobjdump"; do
  [ -n "$tool" ] && [ -x "$tool" ] && { disassembler=$tool; break; }
done
[ -n "$disassembler" ] || skip "no nvdisasm or cuobjdump on PATH or next to nvcc (dev/gpu/sass_report.sh --fetch gets one)"
[ -z "$cubin" ] || [ -f "$cubin" ] || { echo "error: --cubin $cubin: no such file; dev/gpu/ptxas_report.sh --keep DIR leaves it" >&2; exit 2; }
flag=-c
case $(basename "$disassembler") in cuobjdump*) flag=-sass ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -z "$cubin" ]; then
  cubin=$work/model.cubin
  "$nvcc" -std=c++20 -O3 -I. -gencode=arch=compute_90a,code=sm_90a -cubin -o "$cubin" llm/models/gpu_model.cu
fi
"$disassembler" $flag "$cubin" >"$work/sass" || { echo "error: $disassembler $flag $cubin failed (above)" >&2; exit 1; }
version=$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
"$python" dev/gpu/sass_report.py dev/gpu/sass_budget.json "$version" "$pattern" <"$work/sass"
