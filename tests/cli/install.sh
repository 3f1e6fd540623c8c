#!/bin/sh
# make install into a directory of its own; what a user's program then sees.
. tests/cli/common
make=${MAKE:-make}
root=$work/root

# shellcheck disable=SC2317  # called through ok
quiet_make()
{
    "$make" -s --no-print-directory BUILD="$build" DESTDIR="$root" PREFIX=/opt/cj "$@" >"$work/make" 2>&1 && return 0
    cat "$work/make"
    return 1
}
ok 'make install' quiet_make install
for file in bin/convjit include/convjit.h lib/libconvjit.a lib/libconvjit.so lib/libconvjit.so.0 lib/libconvjit.so.0.1.0 \
    lib/pkgconfig/convjit.pc share/man/man1/convjit.1; do
    ok "$file is there" [ -e "$root/opt/cj/$file" ]
done
expect 0 "$root/opt/cj/bin/convjit" --version; out '^convjit 0\.1\.0$'

# The shared library shows the public functions and nothing else, above all none of Lua's
if command -v nm >/dev/null; then
    nm -D --defined-only "$root/opt/cj/lib/libconvjit.so.0.1.0" | awk '{print $3}' | sed 's/@.*//' | sort >"$work/exported"
    grep -o '\bconvjit_[a-z_]*(' runtime/convjit.h | tr -d '(' | sort -u >"$work/declared"
    ok "only convjit_ is exported: $(grep -v '^convjit_' "$work/exported" | head -n 3 | tr '\n' ' ')" \
        sh -c "! grep -vq '^convjit_' '$work/exported'"
    ok "declared, but not exported: $(comm -13 "$work/exported" "$work/declared" | tr '\n' ' ')" \
        [ -z "$(comm -13 "$work/exported" "$work/declared")" ]
else
    skipped=$((skipped + 1))
fi

# A program built with what pkg-config says, against the shared and the static library, and as C++
export PKG_CONFIG_PATH="$root/opt/cj/lib/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$root"
ok 'pkg-config knows the version' [ "$(pkg-config --modversion convjit)" = 0.1.0 ]
shared=$(pkg-config --cflags --libs convjit)
# shellcheck disable=SC2086  # words
ok 'compiles against the shared library' ${CC:-cc} -o "$work/jit" examples/jit.c $shared -Wl,-rpath,"$root/opt/cj/lib"
ok 'loads the library by its soname' sh -c "ldd '$work/jit' | grep -q 'libconvjit.so.0 => $root'"
private=$(sed -n 's/^Libs.private: //p' "$root/opt/cj/lib/pkgconfig/convjit.pc")
# shellcheck disable=SC2086
ok 'compiles against the static library' ${CC:-cc} -o "$work/jit-static" examples/jit.c -I"$root/opt/cj/include" \
    "$root/opt/cj/lib/libconvjit.a" $private
for program in jit jit-static; do
    expect 0 "$work/$program"; out 'corner 12, middle 27'; none_err
done
printf '#include <convjit.h>\nint main() { return convjit_version()[0] != 48; }\n' >"$work/cpp.cc"
# shellcheck disable=SC2086
ok 'the header is C++ too' ${CXX:-c++} -Wall -Werror -o "$work/cpp" "$work/cpp.cc" $shared -Wl,-rpath,"$root/opt/cj/lib"
expect 0 "$work/cpp"
printf '#include <convjit.h>\nint main(void) { return 0; }\n' >"$work/strict.c"
ok 'the header is strict C99' "${CC:-cc}" -std=c99 -Wall -Wextra -pedantic -Werror -fsyntax-only -I"$root/opt/cj/include" \
    "$work/strict.c"

if command -v man >/dev/null && command -v groff >/dev/null; then
    man --warnings -l "$root/opt/cj/share/man/man1/convjit.1" >"$work/man" 2>"$work/err"
    last='man convjit'
    none_err
    ok 'the page has every command' sh -c "for c in dump run schedules precompile cache info; do grep -q \"convjit \$c\" '$work/man' || exit 1; done"
else
    skipped=$((skipped + 1))
fi

ok 'make uninstall' quiet_make uninstall
ok "nothing is left: $(find "$root" -type f -o -type l | head -n 3)" [ -z "$(find "$root" -type f -o -type l)" ]
done_with cli-install
