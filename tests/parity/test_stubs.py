# SPDX-License-Identifier: Apache-2.0
"""The committed type stubs are what the option rows print."""
import ast
import inspect

import dropin.torch as dt
from dropin import _stubs


def test_the_committed_file_is_the_printed_one():
    assert _stubs.TARGET.read_text() == _stubs.printed(), "run python -m dropin._stubs --write"


def test_it_names_everything_with_its_arguments():
    found = {}
    for node in ast.parse(_stubs.printed()).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        if isinstance(node, ast.ClassDef):
            starts = [x for x in node.body if isinstance(x, ast.FunctionDef) and x.name == "__init__"]
            found[node.name] = starts[0] if starts else None
    assert set(found) == set(dt.__all__)
    for name, node in found.items():
        if node is not None:
            given = [a.arg for a in (*node.args.args, *node.args.kwonlyargs) if a.arg != "self"]
            kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
            assert given == [n for n, p in inspect.signature(getattr(dt, name)).parameters.items() if p.kind not in kinds], name
