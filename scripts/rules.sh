#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The house rules that a script can check. Prints each breach as FILE:LINE: rule; exit 1 where there is one.
# (That every option row has help, and every option an effect, is checked by the contract tests, from the records.)
set -u
cd "$(dirname "$0")/.."
breaches=0
breach() { echo "$1" >&2; breaches=$((breaches + 1)); }
files() { git ls-files --cached --others --exclude-standard -- "$@" | while read -r f; do [ -f "$f" ] && echo "$f"; done; }
# forbid RULE PATTERN [FILES…]: no code line (comments are cut) of these files matches
forbid() {
    local rule=$1 pattern=$2
    shift 2
    local hit
    while IFS= read -r hit; do
        [ -n "$hit" ] && breach "$hit: $rule"
    done < <(for f in "$@"; do
        sed -E 's://.*$::; s:/\*.*\*/::; s:^ \*.*$::; s:"([^"\\]|\\.)*":"":g' "$f" | grep -nE "$pattern" | sed "s|^\([0-9]*\):.*|$f:\1|"
    done)
}

for f in $(files '*.c' '*.h' '*.py' '*.sh' '*.cmake' 'CMakeLists.txt' Makefile); do
    lines=$(wc -l <"$f")
    [ "$lines" -gt 600 ] && breach "$f:$lines: at most 600 lines a file"
    head -n 2 "$f" | grep -q 'SPDX-License-Identifier: Apache-2.0' || breach "$f:1: the first line names the licence"
done

# Includes go only downward. floor NAME = its place from the ground up.
floor() {
    case $1 in
    core) echo 1 ;; tensor) echo 2 ;; kernels) echo 3 ;; tape) echo 4 ;; nn) echo 5 ;;
    attention | optimizer) echo 6 ;; models) echo 7 ;; train) echo 8 ;; claims) echo 9 ;; cli) echo 10 ;;
    esac
}
for f in $(files 'src/*.[ch]' 'models/*.[ch]' 'train/*.[ch]' 'claims/*.[ch]' 'cli/*.[ch]'); do
    own=${f#src/}
    own=${own%%/*}
    while IFS=: read -r line target; do
        above=${target%%/*}
        [ -n "$(floor "$above")" ] || { breach "$f:$line: include \"$target\" names no floor"; continue; }
        if [ "$(floor "$above")" -gt "$(floor "$own")" ] || { [ "$(floor "$above")" -eq "$(floor "$own")" ] && [ "$above" != "$own" ]; }; then
            # claims run comparisons through the command's own runner
            breach "$f:$line: $own includes from $above; only downward"
        fi
    done < <(grep -nE '^#include "' "$f" | sed -E 's/^([0-9]+):#include "([^"]+)".*/\1:\2/')
done

below_cli=$(files 'src/*.[ch]' 'models/*.[ch]' 'train/*.[ch]' 'claims/*.[ch]')
forbid "no printing, exit, abort or raw allocation below cli/" '\b(printf|fprintf|vprintf|puts|fputs|putchar|exit|_exit|abort|malloc|calloc|realloc|free|strdup|alloca)[[:space:]]*\(' \
    $(echo "$below_cli" | grep -v '^src/core/memory\.c$')
forbid "products only through di_gemm" '\b(cblas_|openblas_)' $below_cli
forbid "threads only through di_parallel" '#pragma omp' $(echo "$below_cli" | grep -vE '^src/core/parallel\.c$')
forbid "DI_REAL only in _plain, _fast and their headers" '\bDI_REAL\b' $(echo "$below_cli" | grep -vE '_(plain|fast)\.c$|^src/[a-z]+/[a-z_]*\.h$')
forbid "no function-like macros but DI_FIELD and those that name tables" '^[[:space:]]*#[[:space:]]*define[[:space:]]+[A-Za-z_0-9]+\(' \
    $(files 'include/*.h' 'src/*.[ch]' 'models/*.[ch]' 'train/*.[ch]' 'claims/*.[ch]' 'cli/*.[ch]' | grep -vE '^src/core/tables\.h$|^include/dropin/part\.h$')
forbid "no inline code in public headers" '\b(static|inline)\b' $(files 'include/*.h')

hits=$(git grep -nIE '\b(TODO|FIXME|XXX|HACK)\b|/(work|farm)/[a-z.]' -- . ':!scripts/rules.sh' ':!cmake' 2>/dev/null)
[ -n "$hits" ] && breach "$hits: words of unfinished work, or a path of one machine"

for f in $(files 'include/dropin/*.h'); do
    name=${f#include/}
    echo "#include <$name>" | ${CC:-cc} -std=c17 -pedantic-errors -Wall -Wextra -Werror -Iinclude -fsyntax-only -x c - || breach "$f:1: does not compile alone as C17"
    echo "#include <$name>" | ${CXX:-c++} -std=c++17 -Wall -Wextra -Werror -Iinclude -fsyntax-only -x c++ - || breach "$f:1: does not compile alone as C++17"
done

if command -v clang-format >/dev/null 2>&1; then
    clang-format --dry-run -Werror $(files '*.c' '*.h') 2>&1 | grep -E 'error:|warning:' | sed -E 's/: (error|warning):.*/: not formatted (make format)/' | sort -u -t: -k1,1 >&2
    [ "${PIPESTATUS[0]}" -eq 0 ] || breach "formatting differs"
fi

if [ "$breaches" -gt 0 ]; then
    echo "house rules: $breaches breaches" >&2
    exit 1
fi
echo "house rules: kept"
