#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# bench.sh [--record]: every benchmark, one after another, on an otherwise idle machine. The peers need .venv (scripts/setup.sh
# test); --record puts their tables into bench/results.csv, from where scripts/docs.sh takes them.
set -eu
cd "$(dirname "$0")/.."
build/dropin bench products
[ -x build/bench/openblas ] && build/bench/openblas
build/dropin bench attention
build/dropin bench attention --causal
if .venv/bin/python -c 'import torch' >/dev/null 2>&1; then
    export PYTHONPATH=python DROPIN_LIBRARY=build/libdropin.so
    for peer in attention operator_call "gpt_step" "gpt_step --memory" runtime optimizer quantize galore; do
        # shellcheck disable=SC2086
        .venv/bin/python bench/peers/${peer%% *}.py ${peer#"${peer%% *}"} "$@"
    done
else
    echo "bench: the peers are SKIPPED: no PyTorch in .venv (scripts/setup.sh test)" >&2
fi
