# SPDX-License-Identifier: Apache-2.0
"""A part's option rows in Python's dress: names, defaults, values to text and back. beta1, beta2 (and beta3) are one option `betas`."""
import numbers
import typing

from dropin._library import check, ffi, lib
from dropin._options import choices_of, each_row, string


class Option(typing.NamedTuple):
    """One keyword: `rows` names the C rows behind it (more than one for betas)."""

    name: str
    rows: tuple
    kind: int
    default: object
    choices: tuple
    help: str


def _split(text):
    """At the commas outside brackets."""
    depth, start = 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            yield text[start:at]
            start = at + 1
    if text:
        yield text[start:]


def _defaults(part, text):
    """{row name: text} of every option, with `text` on top of the rows' own defaults."""
    options = ffi.new("char[]", max(1, part.options_size))
    check(lib.di_options_parse(ffi.addressof(part), text.encode(), options))
    room = ffi.new("char[]", 16384)
    check(lib.di_options_print(ffi.addressof(part), options, True, room, 16384))
    return dict(pair.split("=", 1) for pair in _split(ffi.string(room).decode()))


def _number_or_word(text):
    return int(text) if text.isdigit() else text


def _value(row, text):
    if row.type == lib.DI_BOOL:
        return text == "on"
    if row.type == lib.DI_CHOICE:
        return _number_or_word(text)
    if text != "auto" and row.type == lib.DI_INT:
        return int(text)
    if text != "auto" and row.type == lib.DI_NUMBER:
        return float(text)
    return text


def read(part, text=""):
    """The options of a part as a list; `text` changes defaults ("bits=8")."""
    defaults = _defaults(part, text)
    options = []
    for row in each_row(part.options):
        name = string(row.name)
        choices = choices_of(row)
        option = Option(name, (name,), row.type, _value(row, defaults[name]), choices, string(row.help))
        before = options[-1] if options else None
        if name.startswith("beta") and name[4:].isdigit() and int(name[4:]) > 1 and before and before.rows[-1] == f"beta{int(name[4:]) - 1}":
            first = (before.default,) if before.name == "beta1" else before.default
            options[-1] = Option("betas", before.rows + (name,), row.type, first + (option.default,), (),
                                 f"{before.help}; {option.help}")
        else:
            options.append(option)
    return options


def as_torch(options, keywords):
    """Options under torch's longer keyword where the row has the beginning of it: decoupled, decoupled_weight_decay."""
    names = {option.name for option in options}
    for option in options:
        longer = [key for key in keywords if key.startswith(option.name + "_") and key not in names]
        yield option._replace(name=longer[0]) if len(longer) == 1 and option.name not in keywords else option


def _one_text(owner, name, kind, value):
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a tensor or numpy number of no dimensions
        value = value.item()
    if value is None and kind in (lib.DI_INT, lib.DI_NUMBER):
        value = "auto"
    if kind == lib.DI_BOOL:
        if not isinstance(value, (bool, numbers.Integral)):
            raise TypeError(f"{owner}: {name}={value!r}; must be True or False")
        return "on" if value else "off"
    if kind == lib.DI_INT and isinstance(value, numbers.Real) and float(value).is_integer():
        return str(int(value))
    if kind == lib.DI_NUMBER and isinstance(value, numbers.Real):
        return repr(float(value))
    if kind in (lib.DI_INT, lib.DI_NUMBER) and value != "auto":
        raise TypeError(f"{owner}: {name}={value!r}; must be a number")
    if kind == lib.DI_CHOICE and isinstance(value, bool):
        raise TypeError(f"{owner}: {name}={value!r}; must be a word of its list")
    text = str(value)
    return f"[{text}]" if text[:1] != "[" and ("," in text or "=" in text) else text


def to_text(owner, option, value):
    """ "name=value" of one option, several for betas; TypeError names owner, option and value."""
    if len(option.rows) == 1:
        return f"{option.rows[0]}={_one_text(owner, option.name, option.kind, value)}"
    try:
        values = tuple(value)
    except TypeError:
        values = ()
    if len(values) != len(option.rows):
        raise ValueError(f"{owner}: {option.name}={value!r}; must be {len(option.rows)} numbers")
    return ",".join(f"{row}={_one_text(owner, row, option.kind, one)}" for row, one in zip(option.rows, values))
