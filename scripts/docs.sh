#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# docs.sh [--check]: fills, in README and docs/, what stands between a marker and <!-- end -->:
#   <!-- options:PART -->    what `dropin help PART` prints of the part's options
#   <!-- figures:BENCH -->   that benchmark's table in bench/results.csv, with its command, machine and commit
#   <!-- claims:NAME -->     the rows of claims/results.csv
# --check changes nothing and fails where they differ.
set -eu
cd "$(dirname "$0")/.."
check=${1:-}
differ=0

options() {
    printf '```text\n'
    build/dropin help "$1" </dev/null | sed -n '/^Options/,$p'
    printf '```\n'
}
# A CSV reader for what our own writers write: quotes around fields with commas, none inside.
csv='function split_csv(line, f,    n, field, quoted, i, c) {
    n = 0; field = ""; quoted = 0
    for (i = 1; i <= length(line); i++) {
        c = substr(line, i, 1)
        if (c == "\"") quoted = !quoted
        else if (c == "," && !quoted) { f[++n] = field; field = "" }
        else field = field c
    }
    f[++n] = field
    return n
}'
figures() {
    awk -v bench="$1" "$csv"'
    { split_csv($0, f) }
    NR > 1 && f[1] == bench {
        if (!found++) about = "`" f[2] "` on " f[5] ", " f[6] " threads, " f[3] ", commit " f[4] ":"
        if (f[7] != row) { if (found > 1) table = table line "|\n"; line = ""; row = f[7] }
        if (f[7] == 0) { titles = titles "| " f[8] " "; rule = rule (f[8] == first || titles == "| " f[8] " " ? "|---" : "|---:") }
        line = line "| " f[9] " "
    }
    END {
        if (!found) { print "docs: bench/results.csv has no \"" bench "\"" > "/dev/stderr"; exit 1 }
        printf "%s\n\n%s|\n%s|\n%s%s|\n", about, titles, rule, table, line
    }' bench/results.csv
}
claims() {
    awk -v claim="$1" "$csv"'
    { split_csv($0, f) }
    NR > 1 && f[6] == claim {
        if (!found++) printf "| date, commit | machine | data | seeds | measured | verdict |\n|---|---|---|---|---|---|\n"
        printf "| %s, %s | %s, %s threads | %s | %d … %d | %s | %s |\n", f[1], f[2], f[3], f[4], f[7], f[9], f[9] + f[10] - 1, f[11], f[12]
    }
    END { if (!found) { print "docs: claims/results.csv has no \"" claim "\"" > "/dev/stderr"; exit 1 } }' claims/results.csv
}

for page in README.md docs/*.md; do
    made=$(mktemp)
    inside=
    while IFS= read -r line; do
        if [ -n "$inside" ] && [ "$line" != '<!-- end -->' ]; then
            continue
        fi
        inside=
        printf '%s\n' "$line"
        case $line in
        '<!-- options:'*' -->' | '<!-- figures:'*' -->' | '<!-- claims:'*' -->')
            what=${line#'<!-- '}
            what=${what%' -->'}
            "${what%%:*}" "${what#*:}"
            inside=1
            ;;
        esac
    done <"$page" >"$made"
    if ! cmp -s "$page" "$made"; then
        if [ "$check" = --check ]; then
            echo "$page: its tables are not what the command and the results say; run scripts/docs.sh" >&2
            diff "$page" "$made" >&2 || true
            differ=1
        else
            cat "$made" >"$page"
        fi
    fi
    rm -f "$made"
done
exit $differ
