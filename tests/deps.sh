#!/bin/sh
# Installs what building and testing need and this machine lacks: Lua 5.4 and a C++ compiler from the system's packages (as
# root on Debian and Ubuntu; otherwise it prints the command and stops), and from Python wheels into .deps/ NVRTC, unless there
# is one, and with the argument `tests` what the Python package's tests use. Prints nothing if nothing is missing.
set -u
cd "$(dirname "$0")/.." || exit 1

say() { echo "deps: $*"; }

# Installs packages, or says which command would.
packages() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing $*"
        log=$(mktemp)
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@"; } \
            >"$log" 2>&1 || { cat "$log"; rm -f "$log"; exit 1; }
        rm -f "$log"
    else
        say "missing: $*. Install them and run make again, on Debian and Ubuntu with"
        say "    sudo apt-get install $*"
        exit 1
    fi
}

# Where convjit itself looks for NVRTC.
have_nvrtc() {
    [ -n "${CONVJIT_NVRTC:-}" ] && return 0
    for file in .deps/nvidia/*/lib/libnvrtc.so.* "${CUDA_HOME:-/none}"/lib64/libnvrtc.so "${CUDA_PATH:-/none}"/lib64/libnvrtc.so \
        /usr/local/cuda*/lib64/libnvrtc.so; do
        [ -e "$file" ] && return 0
    done
    { ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null | grep -q 'libnvrtc\.so' && return 0
    python3 -c 'import glob, sys
sys.exit(not any(glob.glob(p + "/nvidia/*/lib/libnvrtc.so.*") for p in sys.path))' 2>/dev/null
}

# A driver loads what is compiled for its own CUDA version or an older one.
nvrtc_wheel() {
    case "$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: *\([0-9]*\).*/\1/p')" in
    12) echo nvidia-cuda-nvrtc-cu12 ;;
    *) echo nvidia-cuda-nvrtc ;;
    esac
}

missing=
command -v "${LUA:-lua5.4}" >/dev/null || missing="$missing lua5.4"
command -v pkg-config >/dev/null || missing="$missing pkg-config"
pkg-config --exists lua5.4 2>/dev/null || missing="$missing liblua5.4-dev"
command -v c++ >/dev/null || missing="$missing g++"
# shellcheck disable=SC2086  # a list of words
[ -z "$missing" ] || packages $missing

have_pip() { python3 -m pip --version >/dev/null 2>&1; }

# install PLACE WHEEL...: into a directory of ours
install() {
    place=$1
    shift
    say "installing $* into $place/"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$place" "$@"
}

if ! have_nvrtc; then
    have_pip || packages python3-pip
    install .deps --no-deps "$(nvrtc_wheel)" || say "no NVRTC: what compiles for a GPU will not work"
fi
if [ "${1:-}" = tests ] && [ ! -d .deps/python ] && have_pip; then
    install .deps/python numpy setuptools wheel || say "no NumPy and setuptools: tests of the Python package will be skipped"
fi
exit 0
