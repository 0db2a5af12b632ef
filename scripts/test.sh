#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# test.sh [STAGE…]: every test, or the stages named: rules c docs sanitize fuzz install wheel parity. Closes with one line a stage.
set -u
cd "$(dirname "$0")/.."
stages=${*:-rules c docs sanitize fuzz install wheel parity}
passed=0 failed=0 skipped=0
summary=
cores=$(nproc)

configure_and_build() { # FOLDER ARGS…
    local folder=$1
    shift
    cmake -S . -B "$folder" -G Ninja -DDI_TESTS=ON "$@" >"$folder.log" 2>&1 || { cat "$folder.log"; return 1; }
    cmake --build "$folder" --parallel >>"$folder.log" 2>&1 || { tail -n 60 "$folder.log"; return 1; }
    rm -f "$folder.log"
}
stage_rules() { scripts/rules.sh; }
stage_c() { configure_and_build build -DDI_WERROR=ON && ctest --test-dir build --output-on-failure -j "$cores"; }
stage_docs() { scripts/docs.sh --check; }
stage_sanitize() {
    configure_and_build build-sanitize -DDI_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=RelWithDebInfo &&
        ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
            ctest --test-dir build-sanitize --output-on-failure -j "$cores"
}
stage_fuzz() { scripts/fuzz.sh "${FUZZ_SECONDS:-15}"; }
stage_install() { scripts/test_install.sh; }
stage_wheel() { scripts/test_wheel.sh; }
stage_parity() {
    if ! .venv/bin/python -c 'import torch' >/dev/null 2>&1; then
        [ -n "${CI:-}" ] && { echo "parity: PyTorch is missing in CI"; return 1; }
        echo "parity: SKIPPED, all of it: no PyTorch in .venv (scripts/setup.sh test)"
        return 77
    fi
    [ -f build/libdropin.so ] || configure_and_build build || return 1
    PYTHONPATH=python DROPIN_LIBRARY=build/libdropin.so .venv/bin/python -m pytest -q tests/parity
}

for stage in $stages; do
    echo "== $stage"
    began=$(date +%s)
    "stage_$stage"
    case $? in
    0) passed=$((passed + 1)) result=passed ;;
    77) skipped=$((skipped + 1)) result=SKIPPED ;;
    *) failed=$((failed + 1)) result=FAILED ;;
    esac
    summary="$summary$(printf '%-10s %-8s %4d s' "$stage" "$result" $(($(date +%s) - began)))\n"
done
printf '\n%b' "$summary"
echo "stages: $passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
