# SPDX-License-Identifier: Apache-2.0
"""Type stubs of dropin.torch, printed from the signatures that are built from the option rows.

    python -m dropin._stubs [--write]     prints them, or writes dropin/torch/__init__.pyi
"""
import inspect
import pathlib
import sys

TARGET = pathlib.Path(__file__).parent / "torch" / "__init__.pyi"
_HEAD = '''# SPDX-License-Identifier: Apache-2.0
# Printed by python -m dropin._stubs --write from the option rows; a test compares.
from typing import Any, Literal

import torch
from torch import Tensor

'''
_ORDINARY = {bool: "bool", int: "int", float: "float", str: "str"}


def _annotation(parameter, choices):
    given = parameter.annotation
    if given is not parameter.empty:
        return given if isinstance(given, str) else getattr(given, "__name__", str(given))
    if parameter.name in choices:
        words = (int(word) if word.isdigit() else word for word in choices[parameter.name])
        return f"Literal[{', '.join(map(repr, words))}]"
    default = parameter.default
    if isinstance(default, tuple) and default:
        return f"tuple[{', '.join(_ORDINARY.get(type(x), 'Any') for x in default)}]"
    if default == "auto":
        return "Any"
    return _ORDINARY.get(type(default), "Any")


def _parameters(signature, choices):
    kinds, lines, starred = inspect.Parameter, [], False
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            lines.append("self")
            continue
        star = {kinds.VAR_POSITIONAL: "*", kinds.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        if parameter.kind is kinds.KEYWORD_ONLY and not starred:
            lines.append("*")
        starred |= parameter.kind in (kinds.KEYWORD_ONLY, kinds.VAR_POSITIONAL)
        text = f"{star}{parameter.name}: {_annotation(parameter, choices)}"
        lines.append(text if parameter.default is kinds.empty else f"{text} = {parameter.default!r}")
    return lines


def _filled(start, parts, end, indent):
    """One line, or as many as it needs, broken between parameters."""
    lines = [start]
    for number, part in enumerate(parts):
        part += "," if number + 1 < len(parts) else end
        if len(lines[-1]) + len(part) + 1 > 130:
            lines.append(indent + part)
        else:
            lines[-1] += part if lines[-1].endswith("(") else " " + part
    return "\n".join(lines if parts else [start + end])


def _function(name, made, choices, indent=""):
    signature = inspect.signature(made)
    returned = signature.return_annotation
    returned = "Any" if returned is signature.empty else returned if isinstance(returned, str) else getattr(returned, "__name__", "None")
    end = f") -> {'None' if name == '__init__' else returned}: ..."
    return _filled(f"{indent}def {name}(", _parameters(signature, choices), end, indent + "        ")


def _base(cls, ours):
    return next(base for base in cls.__mro__[1:] if base in ours or base.__module__.startswith("torch") or base is object)


def _name(base, ours):
    """As a reader would write it."""
    import torch

    if base in ours:
        return base.__name__
    for home in (torch.nn, torch.optim):
        if getattr(home, base.__name__, None) is base:
            return f"{home.__name__}.{base.__name__}"
    return f"{base.__module__}.{base.__name__}".removeprefix("builtins.")


def _class(name, cls, ours):
    base = _base(cls, ours)
    written = _name(base, ours)
    choices = {option.name: option.choices for option in getattr(cls, "options", ()) if option.choices}
    lines = [f"class {name}({written}):"]
    methods = {}
    for owner in reversed(cls.__mro__[:cls.__mro__.index(base)]):  # private classes between count as its own
        methods.update({key: value for key, value in vars(owner).items() if inspect.isfunction(value) or isinstance(value, property)})
    if "__init__" in methods:
        signature = inspect.signature(cls)
        me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        start = signature.replace(parameters=[me, *signature.parameters.values()])
        made = lambda: None  # noqa: E731
        made.__signature__ = start
        lines.append(_function("__init__", made, choices, "    "))
    for key, value in sorted(methods.items()):
        if key.startswith("_"):
            continue
        if isinstance(value, property):
            lines.append(f"    @property\n    def {key}(self) -> Any: ...")
        else:
            lines.append(_function(key, value, choices, "    "))
    return "\n".join(lines if len(lines) > 1 else [*lines, "    ..."])


def printed():
    """The whole file."""
    import dropin.torch as door

    names = list(door.__all__)
    classes = [name for name in names if inspect.isclass(getattr(door, name))]
    classes.sort(key=lambda name: (len(getattr(door, name).__mro__), name))  # bases first
    ours = [getattr(door, name) for name in classes]
    text = [_class(cls.__name__, cls, ours) for cls in ours]
    text += [_function(name, getattr(door, name), {}) for name in names if name not in classes]
    return _HEAD + "\n\n".join(text) + "\n"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        TARGET.write_text(printed())
    else:
        print(printed(), end="")
