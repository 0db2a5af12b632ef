# SPDX-License-Identifier: Apache-2.0
"""dropin on numpy arrays: attention and its gradient, 8-bit codes, optimizers. Nothing here needs torch.

    out = dropin.numpy.sigmoid_attention(q, k, v, causal=True)            # and so on, a function for every part of the slot
    out, gradient = dropin.numpy.attention_vjp("softmax", q, k, v)
    d_q, d_k, d_v = gradient(d_out)
    codes, scales = dropin.quantize(x)
    optimizer = dropin.optimizer("adamw8bit:lr=1e-3")

Attention arrays are [batch, length, heads, dim] (dropin.torch takes torch's order).
"""
import functools
import inspect

import numpy

from dropin import _options
from dropin._array import fill_tensor
from dropin._library import check, execution, ffi, lib
from dropin._optimizer import Optimizer
from dropin.attention import Attention, records

_CALL = """
query [batch, length, heads, dim], key [batch, keys, kv_heads, dim], value [batch, keys, kv_heads, dim_v], all float32 or all
float64. Result: [batch, length, heads, dim_v].

causal        query i sees the keys up to i + keys - length: the last query sees all
window        (left, right): keys that far before and after stay; -1 is free
query_lengths, key_lengths  [batch] valid rows of padded sequences
mask          bool (True keeps) or float (added to the logits), broadcastable to [batch, heads, length, keys]
slopes        [heads] or [batch, heads]: slope |distance| is subtracted from the logits
key_bias      [keys] or [batch, keys], added to the logits
seed, step    draw the dropout; without a seed an option dropout is refused
threads       None takes what the machine offers
"""


# ---- attention ------------------------------------------------------------------------------------------------------------------


def _ready(name, array, rank=4):
    array = numpy.asarray(array)
    if array.ndim != rank:
        raise ValueError(f"attention: {name} has shape {list(array.shape)}; must be [batch, length, heads, dim]")
    if array.dtype not in (numpy.float32, numpy.float64):
        raise TypeError(f"attention: {name} is {array.dtype}; must be float32 or float64")
    inner = array.strides[-1]
    return array if array.shape[-1] <= 1 or inner == array.itemsize else numpy.ascontiguousarray(array)


def _fitting(name, array, dtype, *shapes):
    """The array in this dtype and one of these shapes; None stays None."""
    if array is None:
        return None
    array = numpy.ascontiguousarray(array, dtype)
    if array.shape not in shapes:
        raise ValueError(f"attention: {name} has shape {list(array.shape)}; must be {' or '.join(str(list(s)) for s in shapes)}")
    return array


def _mask(mask, dtype, shape):
    if mask is None:
        return None
    mask = numpy.asarray(mask)
    mask = mask if mask.dtype == bool else mask.astype(dtype, copy=False)
    if mask.ndim and mask.strides[-1] != mask.itemsize:
        mask = numpy.ascontiguousarray(mask)
    if shape[-1] > 1 and (mask.ndim == 0 or mask.shape[-1] == 1):
        mask = numpy.ascontiguousarray(numpy.broadcast_to(mask, (*mask.shape[:-1], shape[-1])))
    try:
        return numpy.broadcast_to(mask, shape)
    except ValueError:
        raise ValueError(f"attention: mask has shape {list(mask.shape)}; must be broadcastable to {list(shape)}") from None


class _Call:
    """One checked call: forward, then any number of times backward."""

    def __init__(self, part, query, key, value, causal, window, query_lengths, key_lengths, mask, slopes, key_bias, seed, step,
                 threads):
        self.kernel = Attention(part)
        self.inputs = q, k, v = [_ready(*pair) for pair in (("query", query), ("key", key), ("value", value))]
        if not q.dtype == k.dtype == v.dtype:
            raise TypeError(f"attention: query is {q.dtype}, key {k.dtype} and value {v.dtype}; must be one dtype")
        if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
            raise ValueError(f"attention: query {list(q.shape)}, key {list(k.shape)} and value {list(v.shape)} disagree")
        batch, length, heads, keys = *q.shape[:3], k.shape[1]
        record = ffi.addressof(self.kernel.record, "part")
        if seed is None and "dropout=" in _options.printed(record, self.kernel.options):
            raise ValueError(f"attention: {part} has dropout and there is no seed to draw it with")
        left, right = (-1, -1) if window is None else window
        self.keywords = {
            "left": left, "right": 0 if causal else right, "threads": threads,
            "seed": seed or 0, "step": step, "train": seed is not None,
            "q_lengths": _fitting("query_lengths", query_lengths, numpy.int32, (batch,)),
            "k_lengths": _fitting("key_lengths", key_lengths, numpy.int32, (batch,)),
            "mask": _mask(mask, q.dtype, (batch, heads, length, keys)),
            "slopes": _fitting("slopes", slopes, q.dtype, (heads,), (batch, heads)),
            "key_bias": _fitting("key_bias", key_bias, q.dtype, (keys,), (batch, keys))}
        self.out = numpy.empty((*q.shape[:3], v.shape[3]), q.dtype)

    def forward(self):
        return self.kernel.forward(*self.inputs, self.out, **self.keywords)

    def gradient(self, d_out):
        """(d_query, d_key, d_value) for the gradient of the result."""
        d_out = _ready("d_out", d_out)
        if d_out.shape != self.out.shape or d_out.dtype != self.out.dtype:
            raise ValueError(f"attention: d_out is {list(d_out.shape)} {d_out.dtype}; "
                             f"must be {list(self.out.shape)} {self.out.dtype}")
        gradients = tuple(numpy.empty(array.shape, array.dtype) for array in self.inputs)
        self.kernel.backward(*self.inputs, self.out, d_out, *gradients, **self.keywords)
        return gradients


def attention_vjp(part, query, key, value, *, causal=False, window=None, query_lengths=None, key_lengths=None, mask=None,
                  slopes=None, key_bias=None, seed=None, step=0, threads=None):
    """Attention by a part's text ("sigmoid:bias=auto"): its result, and the function that takes the result's gradient to those of
    query, key and value. The arguments are those of `attention`."""
    call = _Call(part, query, key, value, causal, window, query_lengths, key_lengths, mask, slopes, key_bias, seed, step, threads)
    return call.forward(), call.gradient


def attention(part, query, key, value, **keywords):
    return attention_vjp(part, query, key, value, **keywords)[0]


attention.__doc__ = f'Attention by a part\'s text, "sigmoid:bias=auto".\n{_CALL}'
attention.__signature__ = inspect.signature(attention_vjp)


def _function(name, record):
    """PART_attention: the part's options as keywords."""
    # whether a parameter is trained is a module's business
    rows = {row.name: row for row in _options.rows_of(record.part.options) if not row.name.startswith("train_")}
    shared = [p for p in inspect.signature(attention_vjp).parameters.values() if p.name != "part"]
    taken = {p.name for p in shared}

    def function(query, key, value, **keywords):
        options = {word: keywords.pop(word) for word in list(keywords) if word in rows}
        if keywords.keys() - taken:
            raise _options.unknown(f"{name}_attention", {word: None for word in keywords if word not in taken}, [*taken, *rows])
        text = _options.text_of([rows[word] for word in options], list(options.values()))
        return attention(f"{name}:{text}", query, key, value, **keywords)

    function.__name__ = function.__qualname__ = f"{name}_attention"
    function.__module__ = __name__
    own = [inspect.Parameter(row.name, inspect.Parameter.KEYWORD_ONLY, default=row.value, annotation=row.annotation)
           for row in rows.values() if row.name not in taken]
    function.__signature__ = inspect.Signature([*shared, *own])
    lines = "\n".join(f"{row.name:13} {row.help} (default {row.value!r})" for row in rows.values())
    part = record.part
    source = ffi.string(part.paper).decode() if part.paper else "standard"
    function.__doc__ = f"{ffi.string(part.help).decode()} ({source}).\n{_CALL}{lines}\n"
    return function


@functools.cache
def functions():
    """{"softmax_attention": function, …}: one for every part of the slot."""
    return {f"{name}_attention": _function(name, record) for name, record in records().items()}


# ---- 8-bit codes -----------------------------------------------------------------------------------------------------------------


def _quantize_options(given):
    """(struct, what it points at): the library's defaults, and on top what is not None."""
    options = ffi.new("di_quantize_options *")
    check(lib.di_quantize_defaults(options))
    held = None
    for name, value in given.items():
        if value is None:
            continue
        if name == "map":
            table = numpy.ascontiguousarray(value, numpy.float32)
            held = (table, fill_tensor(ffi.new("di_tensor *"), table))
            value = held[1]
        setattr(options, "is_signed" if name == "signed" else name, value)
    return options, held


def _tensor(array):
    return fill_tensor(ffi.new("di_tensor *"), array)


def quantize(x, *, block=None, signed=None, signed_scale=None, sign_repair=None, stochastic=None, map=None, seed=0, step=0,
             threads=None):
    """Block-wise 8-bit codes of x (float32 or float64): codes, uint8 [x.shape], and scales, float32 [ceil(count / block)].

    code[i] is the q whose map[q] is nearest to x[i] / scale, scale the largest magnitude of the flat block. None takes the default.

    block         elements to one scale: a power of two, 32 … 4096 (256)
    signed        which map; in the unsigned one negative elements become 0 (True)
    signed_scale  the scale carries the sign of the largest element, which is then kept exactly (False)
    sign_repair   a negative element that would become 0 takes the largest negative value instead (False)
    stochastic    rounding to a neighbour by chance, drawn by seed and step (False)
    map           256 ascending values in place of our own
    """
    x = numpy.ascontiguousarray(x)
    options, held = _quantize_options({"block": block, "signed": signed, "signed_scale": signed_scale, "sign_repair": sign_repair,
                                       "stochastic": stochastic, "map": map})
    codes = numpy.empty(x.shape, numpy.uint8)
    scales = numpy.empty(-(-x.size // options.block) if options.block > 0 else 0, numpy.float32)
    check(lib.di_quantize(execution(threads, seed=seed, step=step), _tensor(x), options, _tensor(codes), _tensor(scales)))
    del held
    return codes, scales


def dequantize(codes, scales, *, block=None, signed=None, map=None, dtype=numpy.float32, threads=None):
    """The reverse: map[code] scale, in the shape of the codes; block, signed and map are those of `quantize`."""
    codes, scales = numpy.ascontiguousarray(codes, numpy.uint8), numpy.ascontiguousarray(scales, numpy.float32)
    options, held = _quantize_options({"block": block, "signed": signed, "map": map})
    x = numpy.empty(codes.shape, dtype)
    check(lib.di_dequantize(execution(threads), _tensor(codes), _tensor(scales), options, _tensor(x)))
    del held
    return x


def quantize_map(signed=True, exponent_bits=7, bits=8):
    """The map of a general form, ascending float32: by default the 256 values of the codes."""
    values, count = numpy.empty(256, numpy.float32), ffi.new("int32_t *")
    check(lib.di_quantize_map(signed, exponent_bits, bits, ffi.cast("float *", values.ctypes.data), count))
    return values[: count[0]]


# ---- optimizers ------------------------------------------------------------------------------------------------------------------


def optimizer(text, *, threads=None, seed=0):
    return Optimizer(text, threads=threads, seed=seed)


optimizer.__doc__ = Optimizer.__doc__


def __getattr__(name):
    if name.endswith("_attention") and name in functions():
        return functions()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *functions()})
