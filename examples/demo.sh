#!/bin/sh
# The main job, from a cold cache: two layers of 5x7 and 5x9 filters are compiled, run, checked and, on a GPU, measured; then
# a photograph goes through a bank of oriented filters. Where there is no GPU, the emulated device runs the same kernels on
# smaller images, and the cubins for an H100 or H200 go into the cache all the same.
# usage: examples/demo.sh      from the root of the repository, after make; BUILD: the build directory
set -eu
convjit=${BUILD:-build}/convjit
kb56=n8c64h512w256k128r5s7
kb62=n8c32h512w512k64r5s9
CONVJIT_CACHE_DIR=$(mktemp -d)
export CONVJIT_CACHE_DIR
trap 'rm -rf "$CONVJIT_CACHE_DIR"' EXIT

# The schedule that an H200 would take for a problem, by name, since a small image would have another
schedule_of() { "$convjit" schedules "$1" --arch sm_90a | sed -n 's/^ *[0-9.]*  \([^ ]*:[^ ]*\) .*/\1/p' | head -n 1; }

if "$convjit" run n1c1h1w1k1r1s1 --device gpu >/dev/null 2>&1; then
    echo "== Two layers on the GPU: cold cache, exact check, median time =="
    "$convjit" run $kb56 $kb62 --device gpu --check --time
    echo "== Again, in a new process: from the cache on disk =="
    "$convjit" run $kb56 $kb62 --device gpu --check
else
    echo "== No GPU here: the kernels of two layers on the emulated device, with smaller images, cold cache, exact check =="
    "$convjit" run n1c64h20w72k128r5s7 --schedule "$(schedule_of $kb56)" --device emu --check
    "$convjit" run n1c32h20w72k64r5s9 --schedule "$(schedule_of $kb62)" --device emu --check
    echo "== The same kernels compiled for an H100 or H200, into the cache =="
    "$convjit" precompile $kb56 $kb62 --arch sm_90a
fi
"$convjit" cache verify
echo "== A photograph through 16 oriented filters =="
"${BUILD:-build}/examples/filter_bank" examples/coffee.ppm "${BUILD:-build}/filter_bank.png"
[ -z "${CONVJIT_NVRTC:-}" ] || echo "To go on by hand: export CONVJIT_NVRTC=$CONVJIT_NVRTC"
