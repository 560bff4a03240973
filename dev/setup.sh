#!/usr/bin/env bash
# Finds packages that the CPU build needs and this machine lacks; installs them with apt-get if allowed (as root or by
# sudo), else prints the one command to run. Does nothing, and needs no network, when nothing is missing.
#   dev/setup.sh tests   also the packages for tests of optional parts
set -euo pipefail

packages=()
need() { # need PACKAGE COMMAND...: the package is missing unless the command succeeds
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || packages+=("$package")
}
header() { echo "#include <$1>" | g++ -std=c++20 -x c++ -fsyntax-only -; }

need g++ command -v g++
need cmake command -v cmake
need make command -v make
if command -v g++ >/dev/null; then
  need nlohmann-json3-dev header nlohmann/json.hpp
  need libcli11-dev header CLI/CLI.hpp
  need libpcre2-dev header pcre2posix.h
  need libxxhash-dev header xxhash.h
  need doctest-dev header doctest/doctest.h
  need libboost-context-dev header boost/context/detail/fcontext.hpp
else
  packages+=(nlohmann-json3-dev libcli11-dev libpcre2-dev libxxhash-dev doctest-dev libboost-context-dev)
fi
if [ "${1:-}" = tests ]; then
  need openmpi-bin command -v mpirun
  need libopenmpi-dev command -v mpicxx
fi
[ ${#packages[@]} -eq 0 ] && exit 0

echo "missing: ${packages[*]}"
if ! command -v apt-get >/dev/null; then
  echo "error: this is not Debian or Ubuntu; install what these packages contain by your system's own means, then try again" >&2
  exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
  as_root=()
elif sudo -n true 2>/dev/null; then
  as_root=(sudo)
else
  echo "error: installing needs root; run this once, then try again:" >&2
  echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${packages[*]}" >&2
  exit 1
fi
install() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}"; }
"${as_root[@]}" apt-get update -q || echo "apt-get update failed (no network?); trying with the local lists" >&2
install || { echo "error: apt-get could not install: ${packages[*]}" >&2; exit 1; }
