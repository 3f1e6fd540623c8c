#!/bin/sh
# Compares generated source with the golden texts; `run.sh update` writes them anew.
here=$(dirname "$0")
convjit=${BUILD:-build}/convjit
passed=0 failed=0
while read -r file problem arch schedule; do
    case $file in ''|'#'*) continue ;; esac
    [ "$schedule" = - ] && schedule='' || schedule="--schedule $schedule"
    if [ "${1:-}" = update ]; then
        # shellcheck disable=SC2086  # two words, or none
        "$convjit" dump "$problem" --arch "$arch" $schedule >"$here/$file" || exit 1
        continue
    fi
    # a locale with a decimal comma must not matter, nor a second run
    # shellcheck disable=SC2086
    if LC_ALL=de_DE.UTF-8 "$convjit" dump "$problem" --arch "$arch" $schedule | diff -u "$here/$file" -; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$file: $problem differs from its golden text; if that is meant: make golden-update"
    fi
    # the command in the head makes the same text
    again=$(sed -n 's/^\/\/ again     convjit //p' "$here/$file")
    # shellcheck disable=SC2086
    if "$convjit" $again | cmp -s - "$here/$file"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$file: the command in its head makes another text: $again"
    fi
done <"$here/problems.txt"
[ "${1:-}" = update ] && exit 0
echo "golden: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
