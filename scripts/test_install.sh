#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs into a temporary prefix, moves it, and builds and runs the examples against it: pkg-config and CMake, shared and
# static, C and C++.
set -eu
cd "$(dirname "$0")/.."
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
make --no-print-directory install PREFIX="$root/first" >"$root/log" 2>&1 || { cat "$root/log"; exit 1; }
mv "$root/first" "$root/moved"
prefix=$root/moved
PKG_CONFIG_PATH=$(dirname "$(find "$prefix" -name dropin.pc)")
export PKG_CONFIG_PATH
libraries=$(dirname "$PKG_CONFIG_PATH")
"$prefix/bin/dropin" --version >"$root/version"
grep -q '^dropin ' "$root/version"

# shellcheck disable=SC2046
cc -std=c17 examples/kernel.c -o "$root/shared" $(pkg-config --cflags --libs dropin) -lm
LD_LIBRARY_PATH=$libraries "$root/shared" >/dev/null
# shellcheck disable=SC2046
cc -std=c17 examples/module.c -o "$root/static" $(pkg-config --cflags dropin) "$libraries/libdropin.a" $(pkg-config --static --libs-only-other --libs-only-l dropin | sed 's/-ldropin//') $(pkg-config --libs libcjson)
"$root/static" >/dev/null
# shellcheck disable=SC2046
cc -std=c17 examples/own_part.c -o "$root/own" $(pkg-config --cflags --libs dropin-command)
"$root/own" list >/dev/null

mkdir "$root/consumer"
cat >"$root/consumer/CMakeLists.txt" <<TXT
cmake_minimum_required(VERSION 3.20)
project(consumer C CXX)
find_package(dropin REQUIRED)
add_executable(shared $PWD/examples/kernel.c)
target_link_libraries(shared dropin::dropin m)
add_executable(own $PWD/examples/own_part.c)
target_link_libraries(own dropin::command)
add_executable(cpp main.cpp)
target_link_libraries(cpp dropin::static)
TXT
cat >"$root/consumer/main.cpp" <<'TXT'
#include <cstdio>
#include <dropin/command.h>
#include <dropin/dropin.h>
int main() {
    di_exec exec;
    if (di_exec_init(&exec) != DI_OK)
        return 1;
    std::printf("%s\n", di_version());
    return 0;
}
TXT
cmake -S "$root/consumer" -B "$root/consumer/build" -DCMAKE_PREFIX_PATH="$prefix" >"$root/log" 2>&1 || { cat "$root/log"; exit 1; }
cmake --build "$root/consumer/build" >"$root/log" 2>&1 || { cat "$root/log"; exit 1; }
"$root/consumer/build/shared" >/dev/null
"$root/consumer/build/own" list >/dev/null
"$root/consumer/build/cpp" >/dev/null
exported=$(nm -D --defined-only "$libraries/libdropin.so" | awk '$2 ~ /[TDBR]/ {print $3}' | grep -v '^di_\|^_init$\|^_fini$' || true)
[ -z "$exported" ] || { echo "install: the shared library exports: $exported" >&2; exit 1; }
echo "install: moved prefix, pkg-config and CMake, shared and static, C and C++: good"
