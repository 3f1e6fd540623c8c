#!/bin/sh
# run: on the emulated device, and against a driver whose kernels do nothing.
. tests/cli/common
small=n1c3h6w7k4r3s3_pad1
strided=n2c4h9w8k6r2s3_stride2x1_pad1x0x2x3_g2_f16_nhwc_bias_relu_residual

expect 0 "$convjit" run $small; err 'no GPU'; out "^$small: .*direct.*compiled"
expect 0 "$convjit" run $small --device emu; none_err; out 'from disk'
expect 0 "$convjit" run $small --device emu --check; out "^$small: 0 wrong of 168; "; none_err
expect 0 "$convjit" run $small $strided --device emu --check; out '0 wrong of 168;'; out '0 wrong of 648;'
expect 0 "$convjit" run $strided --device emu --check=random; out '0 wrong of 648, largest error'
expect 0 "$convjit" run $small --device emu --check=full,exact --seed 7; out '0 wrong of 168;'
expect 0 "$convjit" run $small --device emu --time; out '[0-9] us, [0-9.e+-]+ TFLOP/s, [0-9.e+-]+ GB/s'
expect 0 "$convjit" run $small --device emu --schedule direct; out 'direct'

# All candidates, and the place of the pick
tiny=n1c3h4w5k2r2s2_f16
expect 0 "$convjit" run $tiny --device emu --time --check --all-schedules; none_err
out "^$tiny on the emulated device"; out 'direct:.*<- picked'; out '^picked: number [0-9]+ of [0-9]+, [0-9.]+ times the best'
expect 0 "$convjit" run $tiny --device emu --time --check --all-schedules --json; json_lines; none_err
json_value 'len(j["candidates"]) > 2 and all(c["check"]["wrong"] == 0 and c["predicted_us"] > 0 for c in j["candidates"])'
json_value 'j["picked"] == min(j["candidates"], key=lambda c: c["predicted_us"])["schedule"]'
json_value 'any(c["schedule"].startswith("wgmma:") for c in j["candidates"])'
json_value '[c["time_us"] for c in j["candidates"]] == sorted(c["time_us"] for c in j["candidates"])'
expect 2 "$convjit" run $tiny --device emu --all-schedules; err 'needs --time'; none_out
expect 2 "$convjit" run $tiny --device emu --time --all-schedules --schedule direct; err 'no --schedule'; none_out

# JSON: one object a line with the documented members
expect 0 "$convjit" run $small --device emu --json; json_lines; none_err
json_value 'j["problem"] == "'$small'" and j["device"] == "emu" and j["from"] == "disk" and "check" not in j and "time_us" not in j'
expect 0 "$convjit" run $small --device emu --json --check --time; json_lines
json_value 'j["check"]["wrong"] == 0 and j["check"]["of"] == 168 and j["time_us"] > 0 and j["schedule"].startswith("direct")'
expect 0 "$convjit" run $small $strided --device emu --json --check; json_lines
ok 'an object a problem' [ "$(wc -l <"$work/out")" = 2 ]

# Another n, h and w is the same kernel; a benchdnn descriptor is a problem too
expect 0 "$convjit" run n3c3h11w5k4r3s3_pad1 --device emu --check --json; json_value 'j["from"] == "disk"'
expect 0 "$convjit" run $small n2c3h9w12k4r3s3_pad1 --device emu; out '^n2c3h9w12k4r3s3_pad1: .*from memory'
expect 0 "$convjit" run mb1_ic3ih6oc4oh6kh3ph1iw7ow7kw3pw1 --device emu --check; out "^$small: 0 wrong of 168"

# Weights that are packed once; a schedule that packs none takes them as they are
packing=n2c70h7w9k40r3s3_pad1_f16
expect 0 "$convjit" run $packing --device emu --schedule wgmma --check --packed; out "^$packing: 0 wrong of 5040; "
many=n1c640h5w5k200r2s2_f16_nhwc
expect 0 "$convjit" run $many --device emu --schedule wgmma --check; out "^$many: 0 wrong of 3200; "
expect 0 "$convjit" run $small --device emu --schedule direct --check --packed; out "^$small: 0 wrong of 168; "

# A manifest
printf '# layers\n\n  %s   # first\n%s\r\n' $small $strided >"$work/manifest"
expect 0 "$convjit" run --manifest "$work/manifest" --device emu --check; out '0 wrong of 168;'; out '0 wrong of 648;'
printf '%s\n\nn1c3\nfrob\n' $small >"$work/manifest"
expect 1 "$convjit" run --manifest "$work/manifest" --device emu; err 'manifest:3: '; err 'manifest:4: '; none_out
expect 1 "$convjit" run --manifest "$work/none"; err 'none: No such file'; none_out

# Who waits for what
expect 0 "$convjit" run $small --device emu --trace; err 'convjit,v1,trace,block \(0,0,0\), thread \([0-9]*,0,0\): waits in __syncthreads on line'
# Refusals
expect 2 "$convjit" run; err 'no problem'; none_out
expect 2 "$convjit" run $small --device tpu; err 'auto, gpu or emu'; none_out
expect 2 "$convjit" run $small --check=maybe; err "not 'maybe'"; none_out
expect 2 "$convjit" run $small --seed=-3; err 'whole number'; none_out
expect 2 "$convjit" run $small --seed 99999999999999999999; err 'whole number'; none_out
expect 1 "$convjit" run $small --device gpu; err "$small: .*"; none_out
expect 1 "$convjit" run $small --device gpu --json; json_value 'j["error"]["status"] == "CONVJIT_NO_DRIVER"'
expect 1 "$convjit" run n8c64h512w256k128r5s7 --device emu; err 'too many for the emulated device'; err '--force'; none_out
expect 1 "$convjit" run $small --device emu --schedule nosuch; err 'nosuch'; none_out
expect 1 "$convjit" run $small --device emu --arch sm_42; err 'sm_42'; none_out
# One that fails does not keep the next from running
expect 1 "$convjit" run n8c64h512w256k128r5s7 $small --device emu; err '^convjit: n8c64'; out "^$small: "
expect 1 env CONVJIT_CXX=none "$convjit" run n1c3h6w7k5r3s3 --device emu; err 'C\+\+ compiler'; none_out

# A GPU whose kernels do nothing: the output is never written, and the check says so
export CONVJIT_DRIVER="$PWD/$build/tests/fake/libcuda.so"
expect 1 "$convjit" run $small --check; out '168 wrong of 168'; err "$small: wrong result, first at n=0 k=0 p=0 q=0: -?nan, expected"
expect 1 "$convjit" run $small --check --json; json_value 'j["device"] == "gpu" and j["check"]["wrong"] == 168'
expect 0 "$convjit" run $small --time; out 'on the GPU'
expect 1 env FAKE_CUDA_FAIL=cuLaunchKernel:719 "$convjit" run $small; err "$small: .*719|$small: .*LAUNCH"; none_out
expect 1 env FAKE_CUDA_FAIL=cuInit:999 "$convjit" run $small; err '999|UNKNOWN'; none_out
expect 0 env FAKE_CUDA_DEVICES=0 "$convjit" run $small; err 'no GPU'; out 'emulated device'
done_with cli-run
