#!/bin/sh
# dump, schedules and info: nothing of CUDA is needed.
. tests/cli/common
export CONVJIT_NVRTC=none
problem=n2c8h20w24k16r3s5_pad1x2_bias_relu

expect 0 "$convjit" dump $problem; out 'extern "C" __global__'; out 'c8k16r3s5_pad1x2'; none_err
cp "$work/out" "$work/first"
expect 0 "$convjit" dump $problem -o "$work/file.cu"; none_out; none_err
ok 'dump -o writes what dump prints' cmp -s "$work/first" "$work/file.cu"
best=$("$convjit" schedules $problem | grep -o '[a-z_]*:[a-z0-9=,]*' | head -n 1)
expect 0 "$convjit" dump --schedule "$best" --arch sm_90a --format cuda $problem
ok 'the defaults are the best schedule, sm_90a, cuda' cmp -s "$work/first" "$work/out"
expect 0 "$convjit" dump $problem --arch sm_80; out 'sm_80'
ok 'another architecture, another head' sh -c "! cmp -s '$work/first' '$work/out'"

expect 0 "$convjit" dump $problem --format torch; out 'class ModelNew'; out 'load_inline'; none_err
if command -v python3 >/dev/null; then
    cp "$work/out" "$work/model.py"
    ok 'dump --format torch is Python' python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())' "$work/model.py"
else
    skipped=$((skipped + 1))
fi

expect 1 "$convjit" dump $problem --arch sm_42; err 'sm_42'; none_out
expect 1 "$convjit" dump $problem --schedule nosuch; err 'nosuch'; none_out
expect 2 "$convjit" dump $problem --format cobol; err 'cobol'; none_out
expect 2 "$convjit" dump; err 'no problem'; none_out
expect 2 "$convjit" dump $problem $problem; err 'one problem'; none_out
expect 1 "$convjit" dump $problem -o "$work/no/such/dir/x"; err 'no/such/dir/x: No such file'; none_out

expect 0 "$convjit" schedules $problem; out 'predicted us'; out '^ +[0-9.]+  direct'; none_err
expect 0 "$convjit" schedules $problem --json; json_lines; none_err
json_value 'j["problem"].startswith("n2c8h20w24k16r3s5") and j["candidates"][0]["predicted_us"] > 0 and "refused" in j'
json_value '[c["predicted_us"] for c in j["candidates"]] == sorted(c["predicted_us"] for c in j["candidates"])'
expect 0 "$convjit" schedules $problem n1c4h8w8k4r3s3 --json; json_lines
ok 'a line a problem' [ "$(wc -l <"$work/out")" = 2 ]
# Each candidate that is listed can be asked for by its specification
"$convjit" schedules $problem | sed -n 's/^ *[0-9.]*  \(direct[^ ]*\) .*/\1/p' | head -n 3 >"$work/specs"
ok 'there are candidates' [ -s "$work/specs" ]
while read -r spec; do
    expect 0 "$convjit" dump $problem --schedule "$spec"
    ok "dump --schedule $spec is of that schedule" grep -qF "$spec" "$work/out"
done <"$work/specs"
expect 2 "$convjit" schedules; err 'no problem'; none_out
expect 1 "$convjit" schedules $problem --arch sm_1; err 'sm_1'; none_out

expect 0 "$convjit" info; out '^version: [0-9]'; none_err
expect 0 "$convjit" info --json; json_value '"version" in j'; none_err
expect 2 "$convjit" info now; err 'no argument'; none_out
done_with cli-source
