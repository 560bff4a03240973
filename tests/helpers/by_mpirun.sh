#!/usr/bin/env bash
# by_mpirun.sh N PROGRAM FLAGS...: runs a test as N processes.
set -euo pipefail
if ! command -v mpirun >/dev/null; then
  echo "skipped: no mpirun here (openmpi-bin)"
  exit 77
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export ASAN_OPTIONS=detect_leaks=0 # OpenMPI leaks some memory at its end
exec mpirun --oversubscribe --bind-to none -n "$1" "${@:2}"
