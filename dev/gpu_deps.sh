#!/usr/bin/env bash
# Puts the libraries that a bare GPU machine may lack into .deps/ (ignored by git), so that they can be copied there with
# the source: headers and static libraries of Debian's packages, and cuDNN's C++ frontend. dev/gpu_check.sh uses them.
#   dev/gpu_deps.sh          here, with a network;  then copy the folder to the other machine
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .deps/packages
(
  cd .deps/packages
  apt-get download -q nlohmann-json3-dev libcli11-dev libpcre2-dev libpcre2-8-0 libxxhash-dev doctest-dev
  for package in *.deb; do dpkg-deb -x "$package" ..; done
)
python3 -m pip download -q --no-deps -d .deps/packages nvidia-cudnn-frontend
mkdir -p .deps/cudnn_frontend
python3 -m zipfile -e .deps/packages/nvidia_cudnn_frontend-*.whl .deps/packages/frontend
rm -rf .deps/cudnn_frontend/include
mv .deps/packages/frontend/include .deps/cudnn_frontend/include
rm -rf .deps/packages .deps/usr/share/doc .deps/usr/share/man .deps/usr/bin
du -sh .deps
