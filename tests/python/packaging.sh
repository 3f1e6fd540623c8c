#!/bin/sh
# The Python package as a wheel: built from a copy of the checkout, installed into a fresh virtual environment, and run there.
# Needs no network: setuptools and wheel are those that tests/deps.sh has put into .deps/python.
. tests/cli/common
command -v python3 >/dev/null || { echo "python_packaging: 0 passed, 0 failed, 1 skipped"; exit 0; }
tools=$PWD/.deps/python
PYTHONPATH=$tools python3 -c 'import setuptools, wheel' 2>/dev/null &&
    python3 -m pip --version >/dev/null 2>&1 || { echo "python_packaging: 0 passed, 0 failed, 1 skipped"; exit 0; }
build=$(cd "$build" && pwd)
unset CONVJIT_LIBRARY PYTHONPATH LD_LIBRARY_PATH
pip="python3 -m pip --disable-pip-version-check --no-cache-dir"

# A checkout, so that building leaves nothing in this one
mkdir -p "$work/checkout/runtime"
cp -R runtime/python "$work/checkout/runtime/" && cp runtime/convjit.h "$work/checkout/runtime/"
rm -rf "$work/checkout/runtime/python/build" "$work"/checkout/runtime/python/*.egg-info
expect 0 env PYTHONPATH="$tools" $pip wheel --no-build-isolation --no-index --no-deps -w "$work" \
    "$work/checkout/runtime/python"
wheel=$(ls "$work"/convjit-*.whl)
ok "one wheel: $wheel" [ -f "$wheel" ]
python3 -m zipfile -l "$wheel" >"$work/files"
for file in __init__.py _library.py _dlpack.py _checkout.py array.py cache.py generator.py nn.py problem.py record.py \
    torch_op.py torch_op.cpp convjit.h; do
    ok "$file is in the wheel" grep -q "^convjit/$file " "$work/files"
done

expect 0 python3 -m venv --without-pip "$work/venv"
python=$work/venv/bin/python
expect 0 $pip --python "$python" install --no-index --no-deps "$wheel"
# `python -I` takes nothing from here: neither this directory nor the environment's PYTHONPATH
run() { expect "$1" env -C "$work" "$python" -I -c "$2"; }

# No library: the error names every place
run 1 'import convjit; convjit.info()'
for place in 'beside the package' "$work/checkout/build" "the loader's path" 'pkg-config' '/usr/local/lib' 'run make'; do
    err "$place"
done
CONVJIT_LIBRARY=/nowhere/lib.so run 1 'import convjit; convjit.info()'; err '\$CONVJIT_LIBRARY: /nowhere/lib.so'

# In the build of the checkout that it was installed from
ln -s "$build" "$work/checkout/build"
run 0 'import convjit; print(convjit.info()["library"])'; out "^$work/checkout/build/libconvjit.so.0$"
run 0 'import convjit; print(convjit.dump("n1c4h6w6k8r3s3", "sm_80"))'; out 'conv2d_direct_c4k8r3s3'
rm "$work/checkout/build"
# By the loader, by the name that was given, beside the package
LD_LIBRARY_PATH=$build run 0 'import convjit; print(convjit.info()["library"])'; out '^libconvjit.so.0$'
CONVJIT_LIBRARY=$build/libconvjit.so run 0 'import convjit; print(convjit.info()["version"])'; out '^0\.1\.0$'
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp -L "$build/libconvjit.so.0" "$site/convjit/"
run 0 'import convjit; print(convjit.info()["library"])'; out "^$site/convjit/libconvjit.so.0$"

# With neither NumPy nor PyTorch: arrays are whatever has __dlpack__
cat >"$work/use.py" <<'END'
import ctypes, sys, convjit
from convjit.array import Array

def array(shape, values):
    memory = (ctypes.c_float * len(values))(*values)
    return Array(memory, ctypes.addressof(memory), shape, "f32", False, 0)

y = convjit.conv2d(array((1, 1, 3, 3), range(9)), array((1, 1, 2, 2), (1, 0, 0, 1)), device="emu")
print(y.shape, list((ctypes.c_float * 4).from_address(y._address)))
assert "numpy" not in sys.modules and "torch" not in sys.modules
END
expect 0 "$python" -I "$work/use.py"; out '^\(1, 1, 2, 2\) \[4\.0, 6\.0, 10\.0, 12\.0\]$'
run 1 'import convjit; convjit.Conv2d'; err "No module named 'torch'"
done_with python_packaging
