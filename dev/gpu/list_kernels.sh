#!/usr/bin/env bash
# The names of all __global__ functions below a folder, one per line, taken from the source. Fails at a __global__ whose
# name cannot be read, so that none is overlooked.
#   dev/gpu/list_kernels.sh kernels
set -euo pipefail
folder=${1:?usage: dev/gpu/list_kernels.sh FOLDER}

for file in $(find "$folder" -name '*.cuh' -o -name '*.cu' | sort); do
  code=$(sed 's|//.*||' "$file")  # comments may mention __global__
  found=$(grep -o -w '__global__' <<<"$code" | wc -l || true)
  names=$(tr '\n' ' ' <<<"$code" | grep -oP '\b__global__\s+(__launch_bounds__\s*(\((?:[^()]|(?2))*\))\s*)?(static\s+|inline\s+)*void\s+(__launch_bounds__\s*(\((?:[^()]|(?5))*\))\s*)?\K\w+' || true)
  read_names=$(grep -c . <<<"$names" || true)
  if [ "$found" -ne "$read_names" ]; then
    echo "error: $file has $found __global__ functions, but only $read_names names can be read; expected '__global__ void [__launch_bounds__(...)] name('" >&2
    exit 1
  fi
  [ -z "$names" ] || echo "$names"
done | sort -u
