#!/bin/sh
# mutate.sh: wrong kernels get caught, in a small part of what `make mutate` tries; the tool says what its input lacks.
. tests/cli/common
mutate=$build/tests/mutate/mutate

expect 0 "$mutate" --only tests/mutate/smoke.txt --verbose
out '^mutate: 2 kernels, 14 mutants tried of [0-9]+ .*: 14 of 14 caught \(100.0 %\), 0 survived'
out 'emulator: barrier: .*race: '
out 'wrong: .*, expected '
out '(emulator|guard): predicate: '

# A change that makes no difference survives, and the exit status says so
printf '%s\n' 'Either half may be the first.' '    tiled_product: int phase = 0; => int phase = 1;' >"$work/harmless"
expect 1 "$mutate" --only "$work/harmless" --equivalent /dev/null
out '^tiled_product.cu:[0-9]+: survived: constant'
out '0 of 1 caught \(0.0 %\), 1 survived'
expect 1 "$mutate" --only "$work/harmless" --equivalent "$work/harmless"
out '0 survived, 0 known gaps; not counted: 1 explained'

printf 'No such change.\n    split: nothing => something\n' >"$work/none"
expect 1 "$mutate" --only "$work/none"; err 'none:2: there is no such mutant'
printf '    split: a => b\n' >"$work/bad"
expect 1 "$mutate" --only "$work/bad"; err 'bad:1: no reason before it'
printf 'Reason.\n    split a b\n' >"$work/bad"
expect 1 "$mutate" --only "$work/bad"; err 'bad:2: expected KERNELS: BEFORE => AFTER'
expect 2 "$mutate" --frob; err 'no such option'
expect 2 "$mutate" --jobs; err 'needs a value'
done_with cli-mutate
