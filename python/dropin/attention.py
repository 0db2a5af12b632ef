# SPDX-License-Identifier: Apache-2.0
"""The attention kernels on arrays [batch, length, heads, dim]: one checked call forward, one backward, no copies."""
import numpy

from dropin._array import as_array, dtype_of, fill_heads, pointer, strides_of
from dropin._library import check, execution, ffi, lib


def records():
    """{name: record} of the slot."""
    count = ffi.new("int64_t *")
    found = lib.di_attention_list(count)
    return {ffi.string(found[i].part.name).decode(): found[i] for i in range(count[0])}


class Attention:
    """One part with its options, e.g. Attention("sigmoid:bias=auto").

    forward(q, k, v, out) and backward(q, k, v, out, d_out, d_q, d_k, d_v) take arrays that the caller owns. Keywords: causal,
    left, right (window), top_left, k_lengths, q_lengths (int32), mask (bool or additive, broadcast by stride 0), slopes, key_bias, threads,
    seed, step, train, parameters (by name: bias, slopes, scale), lse, row_sum, max_logit. backward also takes d_slopes,
    d_key_bias and d_parameters.
    """

    PARAMETERS = ("bias", "slopes", "scale")

    def __init__(self, text):
        name, _, options = text.partition(":")
        known = records()
        if name not in known:
            raise ValueError(f"attention: no part {name!r} ({', '.join(known)})")
        self.record = known[name]
        self.options = ffi.new(f"char[{lib.DI_OPTIONS_BYTES}]")
        check(lib.di_options_parse(ffi.addressof(self.record, "part"), options.encode(), self.options))
        self._work = numpy.empty(0, numpy.uint8)
        self._saved = numpy.empty(0, numpy.uint8)

    def _shape(self, q, k, v, keywords):
        shape = ffi.new("di_attention_shape *")
        batch, q_length, heads, dim = q.shape
        lib.di_attention_shape_init(shape, dtype_of(q), batch, q_length, k.shape[1], heads, dim, bool(keywords.get("causal")))
        shape.kv_heads, shape.dim_v = k.shape[2], v.shape[3]
        mask = shape.mask
        mask.left = keywords.get("left", mask.left)
        mask.right = keywords.get("right", mask.right)
        mask.top_left = bool(keywords.get("top_left"))
        for name in ("q_lengths", "k_lengths"):
            if keywords.get(name) is not None:
                setattr(mask, name, ffi.cast("int32_t *", pointer(keywords[name])))
        dense = keywords.get("mask")
        if dense is not None:
            mask.dense, mask.dense_dtype = pointer(dense), dtype_of(dense)
            mask.batch_stride, mask.head_stride, mask.row_stride, _ = strides_of(dense)
        return shape

    def _io(self, q, k, v, out, keywords):
        io = ffi.new("di_attention_io *")
        io.size = ffi.sizeof("di_attention_io")
        for name, array in (("q", q), ("k", k), ("v", v), ("out", out)):
            fill_heads(getattr(io, name), array, name)
        for name in ("lse", "row_sum", "max_logit", "slopes", "key_bias"):
            if keywords.get(name) is not None:
                setattr(io, name, pointer(keywords[name]))
        if keywords.get("key_bias") is not None and len(keywords["key_bias"].shape) == 2:
            io.key_bias_batch_stride = strides_of(keywords["key_bias"])[0]
        if keywords.get("slopes") is not None and len(keywords["slopes"].shape) == 2:
            io.slopes_batch_stride = strides_of(keywords["slopes"])[0]
        for index, name in enumerate(self.PARAMETERS):
            io.parameters[index] = pointer((keywords.get("parameters") or {}).get(name))
        return io

    def _exec(self, shape, backward, keywords):
        context = execution(keywords.get("threads"), seed=keywords.get("seed", 0), step=keywords.get("step", 0),
                            train=keywords.get("train", False))
        need = ffi.new("int64_t *")
        check(lib.di_attention_workspace(context, self.record, self.options, shape, backward, need))
        if self._work.nbytes < need[0] + 64:
            self._work = numpy.empty(need[0] + 64, numpy.uint8)
        address = (self._work.ctypes.data + 63) & ~63
        context.work, context.work_bytes = ffi.cast("void *", address), need[0]
        check(lib.di_attention_saved(self.record, self.options, shape, need))
        if self._saved.nbytes < need[0] or self._saved.nbytes == 0:
            self._saved = numpy.empty(max(need[0], 8), numpy.uint8)
        return context

    def forward(self, q, k, v, out, **keywords):
        """Writes out; what backward needs is kept until the next forward."""
        result = out
        q, k, v, out = map(as_array, (q, k, v, out))
        shape = self._shape(q, k, v, keywords)
        io = self._io(q, k, v, out, keywords)
        context = self._exec(shape, False, keywords)
        check(lib.di_attention_forward(context, self.record, self.options, shape, io, pointer(self._saved)))
        return result

    def backward(self, q, k, v, out, d_out, d_q, d_k, d_v, **keywords):
        """Writes d_q, d_k, d_v (any may be None) after the forward of the same arrays."""
        q, k, v, out, d_out, d_q, d_k, d_v = map(as_array, (q, k, v, out, d_out, d_q, d_k, d_v))
        shape = self._shape(q, k, v, keywords)
        io = self._io(q, k, v, out, keywords)
        grad = ffi.new("di_attention_grad *")
        grad.size = ffi.sizeof("di_attention_grad")
        for name, array in (("out", d_out), ("q", d_q), ("k", d_k), ("v", d_v)):
            if array is not None:
                fill_heads(getattr(grad, name), array, "d_" + name)
        grad.slopes = pointer(keywords.get("d_slopes"))
        grad.key_bias = pointer(keywords.get("d_key_bias"))
        for index, name in enumerate(self.PARAMETERS):
            grad.parameters[index] = pointer((keywords.get("d_parameters") or {}).get(name))
        context = self._exec(shape, True, keywords)
        check(lib.di_attention_backward(context, self.record, self.options, shape, io, pointer(self._saved), grad))
