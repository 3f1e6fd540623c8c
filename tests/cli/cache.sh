#!/bin/sh
# cache: listing, damage, pruning, bundles.
. tests/cli/common
a=n1c3h6w7k4r3s3_pad1 b=n2c8h9w8k8r2s3_f16_nhwc c=n1c4h8w8k4r5s5_g4

entries() { find "$CONVJIT_CACHE_DIR" -type f | wc -l; }
a_kernel() { find "$CONVJIT_CACHE_DIR" -name '*.cjk' | sort | head -n 1; }
a_selection() { find "$CONVJIT_CACHE_DIR" -name '*.cjs' | sort | head -n 1; }
# damage FILE: overwrites its middle
damage() { printf 'X' | dd of="$1" bs=1 seek=$(($(wc -c <"$1") / 2)) conv=notrunc 2>/dev/null; }

# Empty, and not even there
expect 0 "$convjit" cache ls; none_out; none_err
expect 0 "$convjit" cache ls --json; json_value 'j == []'
expect 0 "$convjit" cache verify; out '^0 entries, 0 damaged$'
expect 0 "$convjit" cache prune; out '^removed 0 files$'
expect 0 "$convjit" cache clear; out '^removed 0 entries$'

expect 0 "$convjit" precompile $a $b $c
# Of each problem a kernel and a selection
expect 0 "$convjit" cache ls; ok 'six lines' [ "$(wc -l <"$work/out")" = 6 ]
out '  kernel     sm_90a  c3k4r3s3_pad1  direct:'; out "  selection  sm_90a  $a  direct:"
expect 0 "$convjit" cache ls --json; none_err
json_value 'sorted(e["tuple"] for e in j if e["kind"] == "kernel") == ["c3k4r3s3_pad1", "c4k4r5s5_g4", "c8k8r2s3_f16_nhwc"]'
json_value 'sorted(e["problem"] for e in j if e["kind"] == "selection") == ["'$a'", "'$c'", "'$b'"]'
json_value 'all(e["bytes"] > 0 and e["mtime"] > 1e9 and e["arch"] == "sm_90a" and e["damage"] is None for e in j)'
expect 0 "$convjit" cache verify; out '^6 entries, 0 damaged$'; none_err

# A bundle, to another directory
expect 0 "$convjit" cache export "$work/bundle"; out '^exported 6 entries$'
expect 0 env CONVJIT_CACHE_DIR="$work/other" "$convjit" cache import "$work/bundle"; out '^imported 6 entries$'
expect 0 env CONVJIT_CACHE_DIR="$work/other" "$convjit" cache verify; out '^6 entries, 0 damaged$'
expect 0 env CONVJIT_CACHE_DIR="$work/other" "$convjit" precompile $a $b $c; out ': 0 compiled, 3 already there'
expect 1 "$convjit" cache export "$work/no/such/dir/bundle"; err 'no/such/dir'; none_out
expect 1 "$convjit" cache import "$work/none"; err 'none'; none_out
head -c 200 "$work/bundle" >"$work/short"
expect 1 env CONVJIT_CACHE_DIR="$work/third" "$convjit" cache import "$work/short"; err 'short'; none_out
ok 'a damaged bundle adds nothing' [ "$(find "$work/third" -type f 2>/dev/null | wc -l)" = 0 ]

# Damage is found, listed, and pruned; with a kernel goes the selection that led to it
entry=$(a_kernel)
damage "$entry"
expect 1 "$convjit" cache verify; out '^6 entries, 1 damaged$'; err "^convjit: $(basename "$entry"): "
expect 0 "$convjit" cache ls; out "damaged $(basename "$entry")"
expect 0 "$convjit" cache ls --json; json_value 'sum(e["damage"] is not None for e in j) == 1'
expect 0 "$convjit" cache prune; out '^removed 2 files$'
expect 0 "$convjit" cache verify; out '^4 entries, 0 damaged$'
entry=$(a_selection)
damage "$entry"
expect 1 "$convjit" cache verify; out '^4 entries, 1 damaged$'; err "^convjit: $(basename "$entry"): checksum"
expect 0 "$convjit" cache prune; out '^removed 1 file$'
expect 0 "$convjit" cache verify; out '^3 entries, 0 damaged$'

# By size
expect 0 "$convjit" cache prune --max-size 1G; out '^removed 0 files$'
expect 0 "$convjit" cache prune --max-size 1; out '^removed 3 files$'
expect 0 "$convjit" cache import "$work/bundle"
expect 0 "$convjit" cache clear; out '^removed 6 entries$'
ok 'nothing is left' [ "$(entries)" = 0 ]

# Wrong use
expect 2 "$convjit" cache; err 'one of ls'; none_out
expect 2 "$convjit" cache frob; err "'frob'"; none_out
expect 2 "$convjit" cache export; err 'takes one file'; none_out
expect 2 "$convjit" cache import a b; err 'takes one file'; none_out
expect 2 "$convjit" cache ls x; err 'no argument'; none_out
expect 2 "$convjit" cache clear --json; err 'no --json'; none_out
expect 2 "$convjit" cache ls --max-size 3; err 'no --max-size'; none_out
for size in 0 -1 x 3T 1KK 99999999999999999999 18446744073709551615G ''; do
    expect 2 "$convjit" cache prune --max-size "$size"; err 'max-size'; none_out
done
expect 1 env CONVJIT_CACHE_DIR= HOME= XDG_CACHE_HOME= "$convjit" cache ls; err 'no cache directory'; none_out
mkdir -m 777 "$work/open"
expect 1 env CONVJIT_CACHE_DIR="$work/open" "$convjit" cache ls; err 'no cache directory: .*open'; none_out
done_with cli-cache
