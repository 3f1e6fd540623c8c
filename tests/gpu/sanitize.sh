#!/bin/sh
# compute-sanitizer's memcheck, racecheck and synccheck over random problems with fresh data on ten kernels of each schedule.
BUILD=${BUILD:-build}
schedules=$(ls "$(dirname "$0")/../../gen/schedules" | sed 's/[.]lua$//')
command -v compute-sanitizer >/dev/null || { echo "sanitize: 0 passed, 0 failed, $(($(echo "$schedules" | wc -l) * 3)) skipped"; exit 0; }
logs=$(mktemp -d) || exit 1
trap 'rm -rf "$logs"' EXIT
for tool in memcheck racecheck synccheck; do
    for schedule in $schedules; do
        { compute-sanitizer --tool $tool --error-exitcode 9 "$BUILD/tests/gpu/differential" 10 $schedule \
              >"$logs/$tool-$schedule" 2>&1 || mv "$logs/$tool-$schedule" "$logs/$tool-$schedule.failed"; } &
    done
    wait
done
passed=0 failed=0
for log in "$logs"/*; do
    case $log in
    *.failed) failed=$((failed + 1)); echo "${log##*/}:"; cat "$log" ;;
    *) passed=$((passed + 1)) ;;
    esac
done
echo "sanitize: $passed passed, $failed failed"
[ $failed -eq 0 ]
