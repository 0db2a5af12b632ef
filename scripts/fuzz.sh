#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# fuzz.sh [SECONDS [NAME…]]: builds every fuzzer (or those named) with clang and the sanitizers and runs each for that long,
# on a copy of its corpus. Fails on a crash, a leak or a hang; the input that did it is left in build-fuzz/.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
[ $# -gt 0 ] && shift
case $seconds in '' | *[!0-9]* | 0) echo "fuzz: SECONDS=$seconds; must be a whole number of at least 1" >&2; exit 2 ;; esac
command -v clang >/dev/null 2>&1 || { echo "fuzz: clang is not installed (scripts/setup.sh test installs it)" >&2; exit 1; }

names=$*
[ -n "$names" ] || for source in tests/fuzz/fuzz_*.c; do
    name=${source##*/fuzz_}
    names="$names ${name%.c}"
done
for name in $names; do
    [ -f "tests/fuzz/fuzz_$name.c" ] || { echo "fuzz: no fuzzer \"$name\"" >&2; exit 2; }
done

folder=build-fuzz
cmake -S . -B $folder $(command -v ninja >/dev/null 2>&1 && [ ! -f $folder/Makefile ] && echo -G Ninja) \
    -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DDI_FUZZ=ON -DDI_TESTS=OFF \
    -DDI_SANITIZE=address,undefined >$folder.log 2>&1 || { cat $folder.log; exit 1; }
for name in $names; do
    cmake --build $folder --target "fuzz_$name" --parallel 2 >>$folder.log 2>&1 || { tail -n 40 $folder.log; exit 1; }
done
rm -f $folder.log

failed=
for name in $names; do
    corpus=$folder/corpus/$name
    rm -rf "$corpus"
    mkdir -p "$corpus"
    cp tests/fuzz/corpus/"$name"/* "$corpus"/
    printf 'fuzz_%s: ' "$name"
    if $folder/fuzz_"$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$folder/crash-$name-" "$corpus" >"$folder/$name.log" 2>&1; then
        sed -nE 's/^stat::number_of_executed_units: *([0-9]+)/\1 inputs/p' "$folder/$name.log" | tr '\n' ','
        sed -nE 's/.*DONE +cov: ([0-9]+).*/ \1 edges/p' "$folder/$name.log"
    else
        echo FAILED
        tail -n 40 "$folder/$name.log"
        failed="$failed $name"
    fi
done
[ -z "$failed" ] || { echo "fuzz: failed:$failed" >&2; exit 1; }
