#!/bin/sh
# The examples, on the emulated device.
. tests/cli/common
examples=$build/examples

expect 0 "$examples/jit"; out 'on the emulated device'; none_err
out 'n1c3h20w24k8r3s3_pad1 +kernel from the compiler +corner 12, middle 27'
out 'n2c3h33w57k8r3s3_pad1 +kernel from memory'
expect 0 "$examples/jit"; out 'n1c3h20w24k8r3s3_pad1 +kernel from disk'
expect 0 "$examples/threads"; none_err
out '^8 threads, 3 kernels, on the emulated device: 3 plans compiled their kernel, 0 took it from disk, 21 from memory$'
expect 0 "$examples/threads"; out ': 0 plans compiled their kernel, 3 took it from disk, 21 from memory$'
expect 0 env BUILD="$build" examples/offline.sh; out '^exported 4 entries'; out '^imported 4 entries'; none_err
ok 'both problems ran from the bundle' [ "$(grep -c '0 wrong of .*from disk' "$work/out")" = 2 ]
if [ ! -e /dev/nvidia0 ]; then # graph looks for the real driver
    expect 0 "$examples/graph"; out 'needs a GPU'
else
    skipped=$((skipped + 1))
fi

# The filter bank: a PNG that decoders accept, with energy where the photograph has edges of that direction
expect 0 "$examples/filter_bank" examples/coffee.ppm "$work/bank.png"; out 'coffee.ppm \(256x256\) through 16 filters of 15x15'
ok 'it is a PNG' sh -c "head -c 8 '$work/bank.png' | od -An -tx1 | grep -q '89 50 4e 47 0d 0a 1a 0a'"
# A vertical stripe answers in the map of vertical edges (the fifth of eight) and not in that of horizontal ones (the first)
if command -v python3 >/dev/null; then
    python3 - "$work" <<'PY'
import sys
w = h = 64
rows = bytes(v for y in range(h) for x in range(w) for v in [255 if 29 <= x < 35 else 0] * 3)
open(sys.argv[1] + "/stripe.ppm", "wb").write(b"P6 64 64 255\n" + rows)
PY
    expect 0 "$examples/filter_bank" "$work/stripe.ppm" "$work/stripe.png"
    ok 'the picture of a vertical stripe' python3 - "$work/stripe.png" <<'PY'
import struct, sys, zlib
data = open(sys.argv[1], "rb").read()
at, stream = 8, b""
while at < len(data):
    n, kind = struct.unpack(">I4s", data[at:at + 8])
    body = data[at + 8:at + 8 + n]
    assert zlib.crc32(kind + body) == struct.unpack(">I", data[at + 8 + n:at + 12 + n])[0], "CRC"
    if kind == b"IHDR":
        width, height = struct.unpack(">II", body[:8])
    if kind == b"IDAT":
        stream += body
    at += 12 + n
raw = zlib.decompress(stream)
assert len(raw) == height * (3 * width + 1), "size"
def value(x, y):
    i = y * (3 * width + 1) + 1 + 3 * x
    return max(raw[i:i + 3])
column, top = 64 // 2 + 4, 64 + 4  # tiles of half size, below the photograph, with gaps of 4
def tile(o):  # brightness at the stripe's edge, half way down
    return value(o % 4 * column + 14, top + o // 4 * (32 + 4) + 16)
assert tile(4) > 200 and tile(4) > 3 * tile(0), [tile(o) for o in range(8)]
PY
else
    skipped=$((skipped + 2))
fi
expect 1 "$examples/filter_bank" "$work/none.ppm"; err 'none.ppm'
expect 1 "$examples/filter_bank" examples/README.md; err 'not a binary PPM'
expect 1 "$examples/filter_bank" examples/coffee.ppm "$work/no/such/dir.png"; err 'No such file'

# The demo, as it runs where there is no GPU; the real compiler is needed for the cubins' part, so the stand-in serves
expect 0 env BUILD="$build" examples/demo.sh; none_err
ok 'the demo fits a screen' [ "$(wc -l <"$work/out")" -le 24 ]
ok 'both layers are checked' [ "$(grep -c ' 0 wrong of ' "$work/out")" = 2 ]
out '^2 problems for sm_90a: 2 compiled'
done_with cli-examples
