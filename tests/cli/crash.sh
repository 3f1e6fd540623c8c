#!/bin/sh
# crash safety: precompile is killed with SIGKILL at random moments. Each time the cache must verify clean, and the next
# run must leave exactly the entries of a run that was never disturbed. First with a stand-in for NVRTC, then with the
# real one, if there is one.
real_nvrtc=${CONVJIT_NVRTC-}
. tests/cli/common
seed=${SEED:-$$}
echo "SEED=$seed"

problems=$(seq -f 'n1c3h8w8k%gr3s3' 1 16)

# parts N LEAST: prints N random numbers from LEAST to 1
parts() { awk -v n="$1" -v least="$2" -v seed="$seed" 'BEGIN { srand(seed); while (n-- > 0) print least + rand() * (1 - least) }'; }
seconds() { awk -v from="$1" -v to="$2" 'BEGIN { print (to - from) / 1e9 }'; }
kernels() { find "$1" -name '*.cjk' 2>/dev/null | wc -l; }
selections() { find "$1" -name '*.cjs' 2>/dev/null | wc -l; }

# rerun PROBLEM...: the run after a crash, with no wait in the stand-in's compilations
rerun() { FAKE_NVRTC_MS=0 "$convjit" precompile "$@" --jobs 2 >"$work/out" 2>&1; }

# round DELAY WANTED PROBLEM...: kills a run over a cold cache; the next must make it match the directory WANTED.
round()
{
    delay=$1 wanted=$2 CONVJIT_CACHE_DIR=$work/cache
    shift 2
    rm -rf "$CONVJIT_CACHE_DIR"
    status=0
    # --foreground: without it, timeout kills itself as well, and a thread that is in rename() then may still publish an entry
    # behind our back. With it, timeout waits until the process is gone.
    timeout --foreground -s KILL "$delay" "$convjit" precompile "$@" --jobs 2 >/dev/null 2>&1 || status=$?
    left=$(kernels "$CONVJIT_CACHE_DIR") whole=$(kernels "$wanted")
    entries=$((left + $(selections "$CONVJIT_CACHE_DIR")))
    case $status in
    137)
        killed=$((killed + 1))
        [ "$left" -eq 0 ] || [ "$left" -eq "$whole" ] || midway=$((midway + 1)) ;;
    0 | 124) # it ended first, or just then: the machine is less busy than it was, and a whole run takes no longer than that
        whole_run=$delay ;;
    *)
        fail "a run that was not killed within $delay s: exit status $status" ;;
    esac
    "$convjit" cache verify >"$work/out" 2>&1 || { fail "cache verify, after $delay s: $(cat "$work/out")"; return; }
    grep -q "^$entries entries, 0 damaged$" "$work/out" || { fail "after $delay s: $(cat "$work/out")"; return; }
    rerun "$@" || { fail "the next run, after $delay s: $(cat "$work/out")"; return; }
    grep -q ": $((whole - left)) compiled, $left already there, 0 failed" "$work/out" ||
        { fail "the next run, after $delay s with $left kernels: $(cat "$work/out")"; return; }
    "$convjit" cache prune >/dev/null 2>&1 || { fail "cache prune, after $delay s"; return; }
    diff -r "$wanted" "$CONVJIT_CACHE_DIR" >"$work/out" 2>&1 || { fail "after $delay s: $(cat "$work/out")"; return; }
    pass
}

# rounds N FROM NAME PROBLEM...: an undisturbed run first, into a directory NAME, which also says how long one takes;
# then N that are killed at some moment behind that part FROM of the time.
rounds()
{
    n=$1 start=$2 wanted=$work/$3 killed=0 midway=0
    shift 3
    from=$(date +%s%N)
    expect 0 env CONVJIT_CACHE_DIR="$wanted" "$convjit" precompile "$@" --jobs 2; none_err
    whole_run=$(seconds "$from" "$(date +%s%N)")
    ok 'each problem has a selection' [ "$(selections "$wanted")" = $# ]
    for part in $(parts "$n" "$start"); do
        round "$(awk "BEGIN { printf \"%.6f\", $part * $whole_run }")" "$wanted" "$@"
    done
    echo "$n rounds of at most $whole_run s: $killed killed, $midway of them with some kernels written"
}

export FAKE_NVRTC_MS=5
rounds 200 0.01 wanted $problems
ok 'most of 200 runs were killed' [ $killed -ge 100 ]
ok 'and many of those midway' [ $midway -ge 50 ]

unset CONVJIT_NVRTC
[ -z "$real_nvrtc" ] || export CONVJIT_NVRTC="$real_nvrtc"
if "$convjit" info --json 2>/dev/null | grep -q '"identity":"libnvrtc'; then
    rounds 5 0.5 wanted-real $(seq -f 'n1c3h8w8k%gr3s3' 1 6)
else
    echo 'no real NVRTC here'
    skipped=$((skipped + 1))
fi
done_with cli-crash
