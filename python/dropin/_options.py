# SPDX-License-Identifier: Apache-2.0
"""Option rows of records as Python keywords: their names, defaults, annotations and help, and the way back to an option text."""
import dataclasses
import numbers

from dropin._library import check, ffi, lib


@dataclasses.dataclass(frozen=True)
class Row:
    """One option. `value` is its default as a Python value."""

    name: str
    kind: str  # int, number, bool, choice, text, part
    value: object
    choices: tuple
    auto: bool
    help: str

    @property
    def annotation(self):
        """Its type, as a stub writes it."""
        if self.kind == "choice":
            return f"Literal[{', '.join(repr(choice) for choice in self.choices)}]"
        name = {"int": "int", "number": "float", "bool": "bool"}.get(self.kind, "str")
        return f'{name} | Literal["auto"]' if self.auto else name


_KINDS = {lib.DI_INT: "int", lib.DI_NUMBER: "number", lib.DI_BOOL: "bool", lib.DI_CHOICE: "choice", lib.DI_TEXT: "text",
          lib.DI_PART: "part"}


def string(text):
    """A C string; "" for NULL."""
    return ffi.string(text).decode() if text else ""


def _value_of(kind, text):
    if kind == "bool":
        return text == "on"
    if text == "auto" or kind not in ("int", "number"):
        return text
    return int(text) if kind == "int" else float(text)


def each_row(options):
    """The rows of a `const di_option *`, over the seam to shared ones."""
    while options and options.name:
        yield options
        options = lib.di_option_after(options)


def choices_of(row):
    """The words of a choice; () for other kinds."""
    return tuple(string(row.choices).split("|")) if row.choices else ()


def rows_of(options):
    """The same as Rows."""
    return tuple(Row(string(row.name), kind, _value_of(kind, string(row.value)), choices_of(row), bool(row.flags & lib.DI_AUTO),
                     string(row.help)) for row in each_row(options) for kind in [_KINDS[row.type]])


def _text_of_value(value):
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str):
        return f"[{value}]" if "," in value else value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (float, numbers.Real)):
        return repr(float(value))
    raise TypeError(f"dropin: an option of type {type(value).__name__}; must be a number, a bool or a text")


def text_of(rows, values):
    """Option text of the values that differ from the defaults; None stands for the default."""
    return ",".join([f"{row.name}={_text_of_value(value)}" for row, value in zip(rows, values)
                     if value is not None and value != row.value])


def parsed(part, text):
    """The option struct of `text` for a `const di_part *`; DropinError names what is wrong."""
    made = ffi.new("int64_t[]", max(int(part.options_size) + 7, 8) // 8)
    check(lib.di_options_parse(part, text.encode(), made))
    return made


def printed(part, options):
    """Canonical text of a struct: what differs from the defaults, in the order of the rows."""
    text = ffi.new("char[]", 4096)
    check(lib.di_options_print(part, options, False, text, 4096))
    return string(text)


def nearest(name, names):
    """The closest of `names` that could be meant, or None."""
    kept = [ffi.new("char[]", one.encode()) for one in names if one]
    found = lib.di_nearest(name.encode(), ffi.new("char *[]", kept), len(kept))
    return string(found) or None


def unknown(owner, given, names):
    """The TypeError for a keyword that nobody knows, with the nearest spelling."""
    given = next(iter(given))
    meant = nearest(given, names)
    hint = f'; did you mean "{meant}"?' if meant else ""
    return TypeError(f"{owner}() got an unexpected keyword argument {given!r}{hint}")
