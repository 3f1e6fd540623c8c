#!/bin/sh
# compute-sanitizer's memcheck and racecheck over 100 random problems with fresh data.
BUILD=${BUILD:-build}
command -v compute-sanitizer >/dev/null || { echo "sanitize: 0 passed, 0 failed, 2 skipped"; exit 0; }
passed=0 failed=0
for tool in memcheck racecheck; do
    if compute-sanitizer --tool $tool --error-exitcode 9 "$BUILD/tests/gpu/differential" 21; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
    fi
done
echo "sanitize: $passed passed, $failed failed"
[ $failed -eq 0 ]
