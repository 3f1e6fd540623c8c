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
# Every kernel that cannot be made any more, or fails unchanged, and every explanation of what is no more, is said at the start
mkdir -p "$work/tests/mutate"
in_work() { (cd "$work" && "$@"); }
kernel() { echo "$1 n1c4h8w8k4r3s3 sm_80 direct:tk=4,tq=4,lk=1,lq=2,tp=4,gt=1,ct=4,rt=3,win=1,stage=1,split=1,flat=0,wide=0 $2"; }
problem() { printf '%s\n' "$@" >"$work/tests/mutate/problems.txt"; }
case $mutate in /*) ;; *) mutate=$PWD/$mutate ;; esac
problem "$(kernel good n1h3w3)" 'gone n1c4h8w8k4r3s3 sm_80 circular:tk=1 n1h3w3' 'bad n1c4h8w8k4r3s3 sm_80 direct:tk=1 n1h3w3'
expect 1 in_work "$mutate" --equivalent "$work/harmless"; none_out
err 'problems.txt: gone: .*circular'
err 'problems.txt: bad: .*direct'
problem "$(kernel small n1h2w2)"
expect 1 in_work "$mutate" --fraction 0.01 --equivalent "$work/harmless"; none_out
err 'small: size n1h2w2'
problem "$(kernel good n1h3w3)"
expect 1 in_work "$mutate" --fraction 0.003 --equivalent "$work/harmless"
err 'harmless:2: no kernel has such a mutant'
out '^direct  .* of '

expect 2 "$mutate" --frob; err 'no such option'
expect 2 "$mutate" --jobs; err 'needs a value'
done_with cli-mutate
