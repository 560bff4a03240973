#!/usr/bin/env bash
# CMake's launcher of the compiler: runs COMMAND, and adds a line to LOG with its processor seconds (user, system) and
# the object that it produced, for dev/slowest.
#   dev/compile_time.sh LOG COMMAND...
log=$1
shift
for ((i = 1; i < $#; ++i)); do
  if [ "${!i}" = -o ]; then
    ((++i))
    object=${!i}
    break
  fi
done
TIMEFORMAT="%U %S ${object:-$*}"
exec 3>&2
{ time "$@" 2>&3; } 2>>"$log"
