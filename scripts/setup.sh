#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# setup.sh build|wheel|test: installs the packages that are missing, on Debian and Ubuntu (with sudo when not root); elsewhere it names
# them and stops. `wheel` adds what builds a virtual environment, `test` adds the tools of the tests and a virtual environment for PyTorch in .venv.
set -eu
cd "$(dirname "$0")/.."
what=${1:-build}
packages="gcc g++ make cmake ninja-build pkg-config libcjson-dev zlib1g-dev gnuplot-nox"
[ "$what" = wheel ] && packages="$packages python3 python3-venv"
[ "$what" = test ] && packages="$packages git libcmocka-dev clang clang-format libopenblas-openmp-dev python3 python3-venv"

installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }
updated=
install() {
    [ $# -eq 0 ] && return 0
    echo "setup: installing $*" >&2
    [ -n "$updated" ] || as_root apt-get update -q >&2
    updated=1
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >&2
}

if ! command -v apt-get >/dev/null 2>&1; then
    missing=
    for tool in cc cmake pkg-config; do command -v $tool >/dev/null 2>&1 || missing="$missing $tool"; done
    for library in libcjson zlib; do pkg-config --exists $library 2>/dev/null || missing="$missing $library"; done
    [ -z "$missing" ] && exit 0
    echo "setup: this is neither Debian nor Ubuntu. Please install:$missing (and gnuplot, for pictures)." >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null 2>&1; then
    for package in $packages; do installed "$package" || { echo "setup: needs root or sudo to install: $packages" >&2; exit 1; }; done
fi
missing=
for package in $packages; do installed "$package" || missing="$missing $package"; done
# shellcheck disable=SC2086
install $missing

if [ "$what" = test ]; then
    # clang's sanitizer and fuzzer runtime, and its OpenMP, of the version that is there
    version=$(clang -dumpversion | cut -d. -f1)
    missing=
    for package in "libclang-rt-$version-dev" "libomp-$version-dev"; do
        installed "$package" || { apt-cache show "$package" >/dev/null 2>&1 && missing="$missing $package"; } || true
    done
    # shellcheck disable=SC2086
    install $missing
    if ! .venv/bin/python -c 'import sys
from importlib.util import find_spec
wanted = "torch numpy cffi pytest safetensors transformers accelerate bitsandbytes galore_torch"
sys.exit(any(find_spec(name) is None for name in wanted.split()))' >/dev/null 2>&1; then
        echo "setup: PyTorch for the parity tests, in .venv" >&2
        python3 -m venv .venv >&2 && .venv/bin/python -m pip install -q -r tests/requirements.txt >&2 || {
            echo "setup: PyTorch could not be installed; the parity tests will be SKIPPED" >&2
            [ -z "${CI:-}" ] || exit 1
        }
    fi
fi
