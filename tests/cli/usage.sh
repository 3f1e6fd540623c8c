#!/bin/sh
# The command line as a whole: help, version, wrong use, a full disk.
. tests/cli/common

expect 0 "$convjit" --version; out '^convjit [0-9]+\.[0-9]+\.[0-9]+$'; none_err
expect 0 "$convjit" --help; out '^usage: convjit '; none_err
expect 0 "$convjit" -h; out '^usage: convjit '
for command in dump run schedules precompile cache info; do
    expect 0 "$convjit" $command --help; out "^usage: convjit $command"; none_err
    expect 0 "$convjit" $command -h; out "^usage: convjit $command"
    expect 2 "$convjit" $command --no-such-option; err "^convjit: .*no-such-option"; err "Try 'convjit $command --help'"; none_out
done
for option in --schedule --arch --format; do
    expect 2 "$convjit" dump $option; err "requires an argument"; none_out
done
expect 2 "$convjit"; err 'no command given'; none_out
expect 2 "$convjit" frobnicate; err "unknown command 'frobnicate'"; none_out

# Bad problems: named on stderr, with the field and what is wrong with it
expect 2 "$convjit" dump n8c64; err 'n8c64: '; none_out
expect 2 "$convjit" run n1c4h8w8k4r3s3_g3; err 'n1c4h8w8k4r3s3_g3: .*g'; none_out
expect 2 "$convjit" run n0c4h8w8k4r3s3; err '\bn\b'; none_out
expect 2 "$convjit" run n1c4h2w8k4r3s3; err 'filter'; none_out
expect 2 "$convjit" run n1c4h8w8k4r3s3_frob; err 'frob'; none_out
expect 2 "$convjit" schedules n1c4h8w8k4r3s3_stride0; err 'stride'; none_out
expect 2 "$convjit" precompile n1c4h8w8k4r3s-3; err 'n1c4h8w8k4r3s-3'; none_out

# A full disk is an error, for short and long output
if [ -c /dev/full ]; then
    for arguments in --version --help "dump n1c4h8w8k4r3s3" "cache ls --json" "info"; do
        status=0
        # shellcheck disable=SC2086  # words
        "$convjit" $arguments >/dev/full 2>"$work/err" || status=$?
        last="convjit $arguments >/dev/full"
        ok "exit status $status of $last" [ $status = 1 ]
        err 'cannot write standard output'
    done
    expect 1 "$convjit" dump n1c4h8w8k4r3s3 -o /dev/full; err '/dev/full'
else
    skipped=$((skipped + 1))
fi
done_with cli-usage
