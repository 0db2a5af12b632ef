# SPDX-License-Identifier: Apache-2.0
"""PART_attention functions and PartAttention modules, built from the records of the slot: signatures, docstrings and repr come from
their option rows.

The functions take what torch.nn.functional.scaled_dot_product_attention takes, in its meaning, and more by keyword.
"""
import inspect
import math

import torch
from torch import Tensor, nn

from dropin import _options
from dropin._library import check, ffi, lib
from dropin.torch._operator import OPERATORS, compiling, plain

MODULE = "dropin.torch"
_TORCH = [  # argument, annotation, default: as torch has them
    ("query", "Tensor", None), ("key", "Tensor", None), ("value", "Tensor", None), ("attn_mask", "Tensor | None", "None"),
    ("dropout_p", "float", "0.0"), ("is_causal", "bool", "False"), ("scale", "float | Tensor | None", "None"),
    ("enable_gqa", "bool", "False")]
_OURS = [
    ("bottom_right", "bool", "False"), ("window", "tuple[int, int] | None", "None"), ("query_lengths", "Tensor | None", "None"),
    ("key_lengths", "Tensor | None", "None"), ("cu_q", "Tensor | None", "None"), ("cu_k", "Tensor | None", "None"),
    ("slopes", "Tensor | None", "None"), ("key_bias", "Tensor | None", "None")]
_IN_TORCH = {"scale": "scale", "dropout": "dropout_p"}  # rows that go by torch's name
_SHAPES = {"form": "bias"}  # rows that say the shape of what another one holds
_DOCUMENTATION = """
Shapes: query [batch, heads, length, dim], key [batch, kv_heads, keys, dim], value [batch, kv_heads, keys, dim_v]; fewer or more
dimensions in front as torch has them. Result: [batch, heads, length, dim_v]. float32, float64, or bfloat16 as storage (float32 inside).

attn_mask     bool (True keeps) or float (added), broadcastable to [batch, heads, length, keys]; a row that keeps no key is 0
dropout_p     probability of dropping a weight, whenever it is above 0
is_causal     query i sees the keys up to i, beside attn_mask; with bottom_right up to i + keys - length
scale         factor of the logits, a number or a tensor that may want a gradient; None: 1 / sqrt(dim)
enable_gqa    kv_heads may be fewer than heads, each serving as many of them
bottom_right  is_causal, window and distances count from the last query and key instead of the first
window        (left, right): keys that far before and after stay; -1 is free
query_lengths, key_lengths  [batch] valid rows of padded sequences
cu_q, cu_k    [sequences + 1] packed sequences: query [total, heads, dim], and so on
slopes        [heads] or [batch, heads]: slope |distance| is subtracted from the logits; may want a gradient
key_bias      [keys] or [batch, keys], added to the logits; may want a gradient
"""


class _Recipe:
    """What the functions of one part need: rows split into torch's names, ours, and those that tensors stand for."""

    def __init__(self, operator):
        self.operator, self.part = operator, operator.part
        self.rows = _options.rows_of(operator.part.part.options)
        names = {row.name for row in self.rows}
        self.trained = {row.name.removeprefix("train_") for row in self.rows if row.name.startswith("train_")} & names
        self.own = [row for row in self.rows if row.name not in _IN_TORCH and not row.name.startswith("train_")]
        self.given = [row for row in self.rows if not row.name.startswith("train_")]  # in the order of `values`
        self.defaults = tuple(row.value for row in self.given)
        self.tensors = tuple(place for place, row in enumerate(self.given) if row.name in self.trained)
        self.indices = {name: index for trained in self.trained
                        for index, name, _, _ in self.part.parameters(f"train_{trained}=on", 1)}
        self.places = {row.name: place for place, row in enumerate(self.given)}
        self.texts, self.plans = {}, {}

    def text(self, values):
        """Option text of a call's values, kept in eager mode."""
        if torch.compiler.is_compiling():
            return _options.text_of(self.given, values)
        try:
            return self.texts[values]
        except KeyError:
            if len(self.texts) > 512:
                self.texts.clear()
            text = _options.text_of(self.given, values)
            self.part.parse(text)  # complains before it is kept
            for name, owner in _SHAPES.items():
                at = self.places.get(name)
                if at is not None and values[at] not in (None, self.defaults[at]):
                    raise ValueError(f"{self.part.name}: {name}={values[at]!r} without {owner} as a tensor; it says the shape of that")
            self.texts[values] = text
            return text

    def keep(self, found, query, key, value, is_causal, bottom_right, window, values):
        """Lets the next call like this one, which went well, find the operator's slots at once."""
        text = self.texts.get(values)
        left, right = _window(is_causal, window)
        if text is None or query.dim() != 4 or key.dim() != 4 or value.dim() != 4:
            return
        if len(self.plans) >= 512:
            self.plans.clear()
        free = self.part.plans.get(self.operator.key(query, key, value, text, left, right, not bottom_right, False))
        if free is not None:  # None: not as it came (copied, converted or broadcast)
            self.plans[found] = free, (text, True, left, right, not bottom_right)

    def with_tensors(self, values, heads):
        """(text, parameters by index) where some option is a tensor."""
        values, tensors = list(values), {}
        for place in self.tensors:
            if isinstance(values[place], Tensor):
                tensors[self.given[place].name] = values[place]
                values[place] = None
        text = _options.text_of(self.given, values)
        for name, tensor in tensors.items():
            text += f"{',' if text else ''}train_{name}=on"
            if "form" not in text and name == "bias" and tensor.numel() != 1:
                text += f",form={'head' if tensor.numel() == heads else 'key'}"
        return text, tuple((self.indices[name], tensor) for name, tensor in tensors.items())


RECIPES = {name: _Recipe(operator) for name, operator in OPERATORS.items()}


_NONE = (None,) * 4


def _wants_grad(tensors):
    if not torch.is_grad_enabled():
        return False
    for tensor in tensors:
        if tensor is not None and tensor.requires_grad:
            return True
    return False


def _check_tensors(query, key, value, attn_mask):
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"attention: {name} is a {type(tensor).__name__}; must be a torch.Tensor")
        if tensor.device.type not in ("cpu", "meta"):
            raise ValueError(f"attention: {name} is on {tensor.device}; must be on the CPU")
        if tensor.dim() < 2:
            raise ValueError(f"attention: {name} has shape {list(tensor.shape)}; must be [batch, heads, length, dim]")
    if attn_mask is not None and attn_mask.requires_grad and torch.is_grad_enabled():
        raise ValueError("attention: attn_mask wants a gradient; only key_bias, slopes and the options that take tensors have one")


def _window(is_causal, window):
    left, right = (-1, -1) if window is None else window
    if left < -1 or right < -1:
        raise ValueError(f"attention: window={window}; must be -1 (free) or more keys before and after")
    return int(left), 0 if is_causal else int(right)


def _seed(p):
    """A seed from torch's generator where there is dropout."""
    return torch.randint(2**63 - 1, (), dtype=torch.int64) if p else None


def _check_heads(query, key):
    if query.shape[-3] != key.shape[-3] != 1:
        raise ValueError(f"attention: query {list(query.shape)} and key {list(key.shape)} disagree in the heads; "
                         "enable_gqa=True lets key heads serve several query heads")


def attend_plain(recipe, query, key, value, is_causal, enable_gqa, bottom_right, window, values):
    """The short way of a call that gives query, key, value and options alone: what was seen before, with nobody listening, needs no
    second look."""
    if window is not None:
        window = tuple(window)
    if not compiling() and plain(query, key, value):
        found = (values, is_causal, enable_gqa, bottom_right, window, query.dtype, key.dtype, value.dtype, query.shape, key.shape,
                 value.shape, query.stride(), key.stride(), value.stride(), torch.get_num_threads())
        seen = recipe.plans.get(found)
        if seen is not None:
            free, given = seen
            if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
                return recipe.operator.function.apply(query, key, value, *given)[0]
            if free:
                return recipe.operator.run(free, query, key, value)
        out = attend(recipe, query, key, value, None, is_causal, enable_gqa, bottom_right, window, _NONE, _NONE[:2], values, 0.0)
        recipe.keep(found, query, key, value, is_causal, bottom_right, window, values)
        return out
    return attend(recipe, query, key, value, None, is_causal, enable_gqa, bottom_right, window, _NONE, _NONE[:2], values, 0.0)


def attend(recipe, query, key, value, attn_mask, is_causal, enable_gqa, bottom_right, window, lengths, extras, values, dropout_p):
    """All functions end here. lengths: (query_lengths, key_lengths, cu_q, cu_k); extras: (slopes, key_bias)."""
    _check_tensors(query, key, value, attn_mask)
    text, parameters = None, ()
    for place in recipe.tensors:
        if isinstance(values[place], Tensor):
            text, parameters = recipe.with_tensors(values, query.shape[-3] if query.dim() > 2 else 1)
            break
    if text is None:
        text = recipe.text(values)
    return attend_text(recipe, query, key, value, attn_mask, is_causal, enable_gqa, bottom_right, window, lengths, extras, parameters,
                       text, _seed(dropout_p))


def attend_text(recipe, query, key, value, attn_mask, is_causal, enable_gqa, bottom_right, window, lengths, extras, parameters, text,
                seed):
    """The same with the options as text. parameters: (index, tensor) pairs."""
    left, right = _window(is_causal, window) if window is not None else (-1, 0 if is_causal else -1)
    by_index = dict(parameters)
    trained = (*extras, *(by_index.get(index) for index in range(4)))
    packed = lengths[2] is not None or lengths[3] is not None
    front = query.shape[:-3]
    if not packed:
        query, key, value, attn_mask, front = _shaped(query, key, value, attn_mask)
        if not enable_gqa:
            _check_heads(query, key)
    keep = _wants_grad((query, key, value, *trained))
    out = recipe.operator(query, key, value, text, keep, left, right, not bottom_right, *trained, attn_mask, *lengths, seed)
    if packed or (front is not None and len(front) == 1):
        return out
    return out[0, 0] if front is None else out.reshape(*front, *out.shape[1:])


def _shaped(query, key, value, attn_mask):
    """Four dimensions each, and what stood in front (None: not even heads). Sizes of 1 there broadcast."""
    if query.dim() == key.dim() == value.dim() == 4 and query.shape[0] == key.shape[0] == value.shape[0]:
        return query, key, value, attn_mask, query.shape[:1]
    try:
        front = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    except RuntimeError:
        raise ValueError(f"attention: query {list(query.shape)}, key {list(key.shape)} and value {list(value.shape)} disagree in front "
                         "of [heads, length, dim]") from None

    def fold(tensor):
        tail = tensor.shape[-3:] if tensor.dim() > 2 else (1, *tensor.shape)
        tensor = tensor.expand(*front, *tail)
        return tensor if len(front) == 1 else tensor.reshape(math.prod(front), *tail)

    if attn_mask is not None and len(front) != 1 and attn_mask.dim() > 3:
        tail = attn_mask.shape[-3:]
        try:
            attn_mask = attn_mask.expand(*front, *tail).reshape(-1, *tail)
        except RuntimeError:
            raise ValueError(f"attention: attn_mask {list(attn_mask.shape)} and query {list(query.shape)} disagree") from None
    return fold(query), fold(key), fold(value), attn_mask, front if query.dim() > 2 or len(front) else None


# ---- what is built at import --------------------------------------------------------------------------------------------------


_NAMES = {}  # of a function or class: the keywords that it knows


def _option_lines(rows, names=None):
    lines = []
    for row in rows:
        name = (names or {}).get(row.name, row.name)
        lines.append(f"{name:13} {row.help} (default {row.value!r})")
    return "\n".join(lines)


def _parameter(name, annotation, default, kind=inspect.Parameter.POSITIONAL_OR_KEYWORD):
    return inspect.Parameter(name, kind, annotation=annotation, default=default)


def _literal(text):
    return inspect.Parameter.empty if text is None else eval(text, {})


def _annotation(recipe, row):
    return f"{row.annotation} | Tensor" if row.name in recipe.trained else row.annotation


def _function(recipe):
    name = f"{recipe.part.name}_attention"
    by_torch = {row: _IN_TORCH[row] for row in ("scale", "dropout") if row in {r.name for r in recipe.rows}}
    values = ", ".join(by_torch.get(row.name, row.name) for row in recipe.given)
    positional = ", ".join(n if d is None else f"{n}={d}" for n, _, d in _TORCH)
    keyword = ", ".join([*(f"{n}={d}" for n, _, d in _OURS), *(f"{row.name}={row.value!r}" for row in recipe.own)])
    source = f"""
def {name}({positional}, *, {keyword}, **unknown):
    if unknown:
        raise _options.unknown({name!r}, unknown, _NAMES[{name!r}])
    if attn_mask is query_lengths is key_lengths is cu_q is cu_k is slopes is key_bias is None and not dropout_p:
        return attend_plain(_{recipe.part.name}, query, key, value, is_causal, enable_gqa, bottom_right, window, ({values},))
    return attend(_{recipe.part.name}, query, key, value, attn_mask, is_causal, enable_gqa, bottom_right, window,
                  (query_lengths, key_lengths, cu_q, cu_k), (slopes, key_bias), ({values},), dropout_p)
"""
    _NAMES[name] = [n for n, _, _ in _TORCH + _OURS] + [row.name for row in recipe.own]
    globals()[f"_{recipe.part.name}"] = recipe
    exec(source, globals())  # in this module's own names: torch.compile looks for them here
    made = globals()[name]
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    made.__signature__ = inspect.Signature(
        [_parameter(n, a, _literal(d)) for n, a, d in _TORCH]
        + [_parameter(n, a, _literal(d), keyword_only) for n, a, d in _OURS]
        + [_parameter(row.name, _annotation(recipe, row), row.value, keyword_only) for row in recipe.own], return_annotation="Tensor")
    made.__module__ = MODULE
    part = recipe.operator.record.part
    made.__doc__ = (f"{ffi.string(part.help).decode()} ({ffi.string(part.paper).decode()}).\n{_DOCUMENTATION}"
                    f"{_option_lines(recipe.own)}\n")
    return made


def initial(recipe, text, index, heads, dim, max_length):
    """First values of a parameter, in double."""
    (count,) = [count for i, _, count, _ in recipe.part.parameters(text, heads, max_length=max_length) if i == index]
    values = torch.empty(count, dtype=torch.float64)
    config = recipe.part.config(heads, heads, dim, dim, max_length)
    check(recipe.operator.record.initialise(recipe.part.parse(text), config, index, ffi.cast("double *", values.data_ptr())))
    return values


class _Attention(nn.Module):
    """Base of the modules: options as text, their parameters as torch's (frozen ones as buffers)."""

    _recipe = None

    def _build(self, heads, dim, max_length, kv_heads, dim_v, is_causal, bottom_right, window, dtype, values):
        recipe = self._recipe
        self.heads, self.dim, self.kv_heads, self.dim_v = heads, dim, kv_heads or heads, dim_v or dim
        self.max_length, self.is_causal, self.bottom_right, self.window = max_length, is_causal, bottom_right, window
        if window is not None:
            _window(is_causal, window)
        text = _options.text_of(recipe.rows, values)
        self.options = _options.printed(recipe.part.part, recipe.part.parse(text))
        self.dropout = float(dict(zip((row.name for row in recipe.rows), values)).get("dropout") or 0)
        dtype = dtype or torch.get_default_dtype()
        self._indices = []
        for index, name, _, flags in recipe.part.parameters(self.options, heads, self.kv_heads, dim, self.dim_v, max_length or 1):
            first, other = (initial(recipe, self.options, index, heads, dim, length) for length in (max_length or 1, 2 * (max_length or 1)))
            if max_length is None and not torch.equal(first, other):
                raise ValueError(f"{recipe.part.name}: max_length=None; {name} depends on the longest length of training")
            if flags & lib.DI_PARAMETER_FROZEN:
                self.register_buffer(name, first.to(dtype))
            else:
                self.register_parameter(name, nn.Parameter(first.to(dtype)))
            self._indices.append((index, name))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *, query_lengths: Tensor | None = None,
                key_lengths: Tensor | None = None, cu_q: Tensor | None = None, cu_k: Tensor | None = None, slopes: Tensor | None = None,
                key_bias: Tensor | None = None) -> Tensor:
        """Attention of [batch, heads, length, dim]; the arguments are those of the function."""
        parameters = tuple((index, getattr(self, name)) for index, name in self._indices if name != "slopes" or slopes is None)
        seed = _seed(self.dropout) if self.training else None
        return attend_text(self._recipe, query, key, value, attn_mask, self.is_causal, self.kv_heads != self.heads, self.bottom_right,
                           self.window, (query_lengths, key_lengths, cu_q, cu_k), (slopes, key_bias), parameters, self.options, seed)

    def extra_repr(self) -> str:
        """Sizes, then the options that differ from their defaults."""
        shown = {"heads": self.heads, "dim": self.dim, "max_length": self.max_length}
        if self.kv_heads != self.heads:
            shown["kv_heads"] = self.kv_heads
        if self.dim_v != self.dim:
            shown["dim_v"] = self.dim_v
        for name in ("is_causal", "bottom_right", "window"):
            if getattr(self, name):
                shown[name] = getattr(self, name)
        text = ", ".join(f"{name}={value}" for name, value in shown.items() if value is not None)
        return f"{text}, {self.options.replace(',', ', ')}" if self.options else text


_SIZES = [("heads", "int", None), ("dim", "int", None), ("max_length", "int | None", "None")]
_PLACES = [("kv_heads", "int | None", "None"), ("dim_v", "int | None", "None"), ("is_causal", "bool", "False"),
           ("bottom_right", "bool", "False"), ("window", "tuple[int, int] | None", "None"), ("dtype", "torch.dtype | None", "None")]


def _class(recipe):
    part = recipe.operator.record.part
    stem = ffi.string(part.python).decode() if part.python else "".join(word.capitalize() for word in recipe.part.name.split("_"))
    name = f"{stem}Attention"
    sizes = ", ".join(n if d is None else f"{n}={d}" for n, _, d in _SIZES)
    keyword = ", ".join([*(f"{n}={d}" for n, _, d in _PLACES), *(f"{row.name}={row.value!r}" for row in recipe.rows)])
    _NAMES[name] = [n for n, _, _ in _SIZES + _PLACES] + [row.name for row in recipe.rows]
    source = f"""
def __init__(self, {sizes}, *, {keyword}, **unknown):
    if unknown:
        raise _options.unknown({name!r}, unknown, _NAMES[{name!r}])
    _Attention.__init__(self)
    self._build(heads, dim, max_length, kv_heads, dim_v, is_causal, bottom_right, window, dtype,
                ({', '.join(row.name for row in recipe.rows)},))
"""
    space = dict(globals())
    exec(source, space)
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    start = space["__init__"]
    start.__signature__ = inspect.Signature(
        [_parameter("self", inspect.Parameter.empty, inspect.Parameter.empty)]
        + [_parameter(n, a, _literal(d)) for n, a, d in _SIZES] + [_parameter(n, a, _literal(d), keyword_only) for n, a, d in _PLACES]
        + [_parameter(row.name, row.annotation, row.value, keyword_only) for row in recipe.rows], return_annotation=None)
    start.__qualname__ = f"{name}.__init__"
    documentation = (f"{ffi.string(part.help).decode()} ({ffi.string(part.paper).decode()}), as a module.\n\n"
                     f"Its parameters are trained where the options say so, and stored as buffers otherwise. max_length is the longest\n"
                     f"length of training.\n\n{_option_lines(recipe.rows)}\n")
    return type(name, (_Attention,), {"__init__": start, "_recipe": recipe, "__module__": MODULE, "__doc__": documentation,
                                      "__qualname__": name})


FUNCTIONS = {f"{name}_attention": _function(recipe) for name, recipe in RECIPES.items()}
MODULES = {cls.__name__: cls for cls in map(_class, RECIPES.values())}
globals().update(FUNCTIONS)
globals().update(MODULES)
__all__ = [*FUNCTIONS, *MODULES]
