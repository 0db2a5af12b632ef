#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# docs.sh [--check]: puts what `dropin help PART` prints of a part's options behind every marker <!-- options:PART --> in docs/, up to
# <!-- end -->. --check changes nothing and fails where they differ.
set -eu
cd "$(dirname "$0")/.."
check=${1:-}
differ=0
for page in docs/*.md; do
    made=$(mktemp)
    while IFS= read -r line; do
        if [ -n "${inside:-}" ] && [ "$line" != '<!-- end -->' ]; then
            continue
        fi
        inside=
        printf '%s\n' "$line"
        case $line in
        '<!-- options:'*' -->')
            part=${line#'<!-- options:'}
            printf '```text\n'
            build/dropin help "${part%' -->'}" </dev/null | sed -n '/^Options/,$p'
            printf '```\n'
            inside=1
            ;;
        esac
    done <"$page" >"$made"
    if ! cmp -s "$page" "$made"; then
        if [ "$check" = --check ]; then
            echo "$page: the option tables are not what dropin help prints; run scripts/docs.sh" >&2
            diff "$page" "$made" >&2 || true
            differ=1
        else
            cat "$made" >"$page"
        fi
    fi
    rm -f "$made"
done
exit $differ
