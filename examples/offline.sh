#!/bin/sh
# Fill a cache, ship it as one file, and run from it where nothing can be compiled.
# usage: examples/offline.sh [PROBLEM...]      from the root of the repository, after make; BUILD: the build directory
set -eu
convjit=${BUILD:-build}/convjit
[ $# -gt 0 ] || set -- n1c8h16w24k16r3s3_pad1_bias_relu n1c16h8w8k16r1s1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

device=emu
if CONVJIT_CACHE_DIR=$work/probe "$convjit" run n1c1h1w1k1r1s1 --device gpu >/dev/null 2>&1; then
    device=gpu
fi

echo "== The machine with a compiler: fill a cache, write it to one file =="
export CONVJIT_CACHE_DIR="$work/build-machine"
if [ $device = gpu ]; then
    "$convjit" precompile "$@" --arch native
else
    "$convjit" precompile "$@" --device emu
fi
"$convjit" cache export "$work/kernels.bundle"

echo "== The machine without: take the file in, and run with compiling switched off =="
export CONVJIT_CACHE_DIR="$work/target-machine" CONVJIT_NVRTC=none CONVJIT_CXX=none
"$convjit" cache import "$work/kernels.bundle"
"$convjit" run "$@" --device $device --check
