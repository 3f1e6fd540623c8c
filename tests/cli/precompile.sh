#!/bin/sh
# precompile, with a stand-in for NVRTC.
. tests/cli/common
a=n1c3h6w7k4r3s3_pad1 b=n2c8h9w8k8r2s3_f16_nhwc c=n1c4h8w8k4r5s5_g4

expect 0 "$convjit" precompile $a $b $c
out '^3 problems for sm_90a: 3 compiled, 0 already there, 0 failed'; none_err
expect 0 "$convjit" precompile $a $b $c; out ': 0 compiled, 3 already there, 0 failed'
expect 0 "$convjit" precompile n1c3h6w8k4r3s3_pad1; out ': 0 compiled, 1 already there'
expect 0 "$convjit" precompile $a $b --arch sm_80,sm_90a --jobs 2
out '^2 problems for sm_80: 2 compiled'; out '^2 problems for sm_90a: 0 compiled, 2 already there'
expect 0 "$convjit" cache ls; ok 'five kernels' [ "$(grep -c ' kernel ' "$work/out")" = 5 ]
ok 'and for each problem and architecture a selection' [ "$(grep -c ' selection ' "$work/out")" = 6 ]

# A manifest from a file and from standard input
printf '# two layers\n%s # main\n\n   n1c5h8w8k5r3s3\n' $a >"$work/manifest"
expect 0 "$convjit" precompile --manifest "$work/manifest"; out '^2 problems for sm_90a: 1 compiled, 1 already there'
expect 0 sh -c "'$convjit' precompile --manifest - <'$work/manifest'"; out '^2 problems for sm_90a: 0 compiled, 2 already there'
expect 0 "$convjit" precompile $b --manifest "$work/manifest"; out '^3 problems'
printf '%s\nn1c3h0w7k4r3s3\n# fine\nwhat\n' $a >"$work/manifest"
expect 1 "$convjit" precompile --manifest "$work/manifest"
err "^convjit: $work/manifest:2: "; err "^convjit: $work/manifest:4: "; none_out
: >"$work/empty"
expect 1 "$convjit" precompile --manifest "$work/empty"; err 'no problem in it'; none_out

# One failure of many
expect 1 env FAKE_NVRTC_FAIL=1 "$convjit" precompile $a n1c6h8w8k6r3s3
out ': 0 compiled, 1 already there, 1 failed'; err '^convjit: n1c6h8w8k6r3s3: '
expect 1 env CONVJIT_NVRTC=none "$convjit" precompile n1c7h8w8k7r3s3; err 'n1c7h8w8k7r3s3: '; out '1 failed'
expect 1 env CONVJIT_NVRTC=/no/such/lib.so "$convjit" precompile n1c7h8w8k7r3s3; err '/no/such/lib.so'

# No bar where stderr is no terminal
ok 'no carriage return on stderr' sh -c "! grep -q '$(printf '\r')' '$work/err'"
# script(1) gives it one
if command -v script >/dev/null; then
    script -qec "$convjit precompile n1c9h8w8k9r3s3 $a" /dev/null >"$work/out" 2>&1 </dev/null
    last='precompile on a terminal'
    out '\[#* *\] [12]/2'; out '1 compiled, 1 already there'
else
    skipped=$((skipped + 1))
fi

# Wrong use
expect 2 "$convjit" precompile; err 'no problem and no manifest'; none_out
expect 2 "$convjit" precompile $a --jobs 0; err 'jobs'; none_out
expect 2 "$convjit" precompile $a --jobs x; err 'jobs'; none_out
expect 2 "$convjit" precompile $a --device tpu; err 'gpu or emu'; none_out
expect 1 "$convjit" precompile $a --arch sm_42; err 'sm_42'
expect 1 "$convjit" precompile $a --arch native; err 'native'; none_out
expect 0 env CONVJIT_DRIVER="$PWD/$build/tests/fake/libcuda.so" FAKE_CUDA_ARCH=8.6 "$convjit" precompile $a --arch native
out 'for sm_86: 1 compiled'
expect 1 env CONVJIT_CACHE_DIR= HOME= XDG_CACHE_HOME= "$convjit" precompile $a; err 'no cache directory'; none_out
done_with cli-precompile
