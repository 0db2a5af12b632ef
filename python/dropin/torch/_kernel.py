# SPDX-License-Identifier: Apache-2.0
"""The C calls of attention on torch's tensors. Everything that depends on shapes and options alone is made once and kept."""
import threading

import torch

from dropin._library import check, execution, ffi, lib
from dropin._options import parsed

_DTYPES = {torch.float32: lib.DI_F32, torch.float64: lib.DI_F64}
_NULL = ffi.NULL
_WORDS = ffi.typeof("uintptr_t *")
_KEPT_PLANS = 512
_KEPT_SCRATCH = 1 << 25  # bytes that a thread keeps between calls
PARAMETERS = 4  # DI_ATTENTION_PARAMETERS


def _word(struct, field):
    return ffi.offsetof(struct, field) // 8


# where the pointers lie that change from call to call, in words: cheaper to write than fields
Q, K, V, OUT = (_word("di_attention_io", name) for name in ("q", "k", "v", "out"))
D_OUT, D_Q, D_K, D_V = (_word("di_attention_grad", name) for name in ("out", "q", "k", "v"))
WORK = _word("di_exec", "work")

_threads = threading.local()


def scratch(need):
    """Address of at least `need` bytes, aligned to 64, and what keeps them."""
    kept = getattr(_threads, "scratch", None)
    if kept is not None and kept[1] >= need:
        return kept[0], kept[2]
    size = max(need, 1 << 16)
    buffer = torch.empty(size + 64, dtype=torch.uint8)
    address = (buffer.data_ptr() + 63) & ~63
    if size <= _KEPT_SCRATCH:
        _threads.scratch = (address, size, buffer)
    return address, buffer


class Slot:
    """The structs of one call. A call takes a slot from its plan and gives it back, so threads never share one."""

    __slots__ = ("exec", "exec_words", "shape", "io", "io_words", "grad", "grad_words", "need", "options", "size", "stride", "saved_bytes")

    def __init__(self, shape, io):
        self.exec, self.shape, self.io = execution(torch.get_num_threads()), shape, io
        self.exec_words, self.io_words = ffi.cast(_WORDS, self.exec), ffi.cast(_WORDS, self.io)
        self.grad = self.grad_words = None


class Geometry:
    """Sizes of a problem, checked: query [batch, heads, length, dim], or packed [total, heads, dim]."""

    __slots__ = ("batch", "heads", "kv_heads", "q_length", "k_length", "dim", "dim_v", "packed")

    def __init__(self, query, key, value, packed):
        q, k, v = query.shape, key.shape, value.shape
        self.packed = packed
        rank = 3 if packed else 4
        for name, shape in (("query", q), ("key", k), ("value", v)):
            if len(shape) != rank:
                layout = "[total, heads, dim] with cu_q and cu_k" if packed else "[batch, heads, length, dim]"
                raise ValueError(f"attention: {name} has shape {list(shape)}; must be {layout}")
        if packed:
            self.batch = 1
            self.q_length, self.heads, self.dim = q
            self.k_length, self.kv_heads, _ = k
        else:
            self.batch, self.heads, self.q_length, self.dim = q
            _, self.kv_heads, self.k_length, _ = k
            if k[0] != q[0]:
                raise ValueError(f"attention: query {list(q)} and key {list(k)} disagree in the batch")
        self.dim_v = v[-1]
        if k[-1] != q[-1]:
            raise ValueError(f"attention: query {list(q)} and key {list(k)} disagree in the last dimension")
        if k[:-1] != v[:-1]:
            raise ValueError(f"attention: key {list(k)} and value {list(v)} disagree; only the last dimension may differ")

    def out_layout(self):
        """Shape and strides of the result: rows lie by [batch, length, heads, dim], as a projection behind it wants them."""
        if self.packed:
            return (self.q_length, self.heads, self.dim_v), (self.heads * self.dim_v, self.dim_v, 1)
        row = self.heads * self.dim_v
        return (self.batch, self.heads, self.q_length, self.dim_v), (self.q_length * row, self.dim_v, row, 1)

    @property
    def rows(self):
        """Rows of a statistic (log-sum-exp)."""
        return self.batch * self.heads * self.q_length

    def fill(self, dtype, left, right, top_left, cu_q=None, cu_k=None):
        """A di_attention_shape."""
        shape = ffi.new("di_attention_shape *")
        batch, q_length, k_length = self.batch, self.q_length, self.k_length
        if self.packed:
            batch = len(cu_q) - 1
            q_length, k_length = (int((cu[1:] - cu[:-1]).max()) if batch else 0 for cu in (cu_q, cu_k))
        lib.di_attention_shape_init(shape, _DTYPES[dtype], batch, q_length, k_length, self.heads, self.dim, False)
        shape.kv_heads, shape.dim_v = self.kv_heads, self.dim_v
        shape.mask.left, shape.mask.right, shape.mask.top_left = left, right, top_left
        return shape


def fill_strides(heads, strides):
    """torch's [batch, heads, length, dim], or packed [total, heads, dim]."""
    if len(strides) == 4:
        heads.batch_stride, heads.head_stride, heads.length_stride, _ = strides
    else:
        heads.length_stride, heads.head_stride, _ = strides


class Part:
    """One record of the slot, and what is kept for it."""

    def __init__(self, record):
        self.record = record
        self.part = ffi.addressof(record, "part")
        self.name = ffi.string(record.part.name).decode()
        self.options = {}  # text → struct
        self.plans = {}

    def parse(self, text):
        """The option struct of a text, kept."""
        options = self.options.get(text)
        if options is None:
            if len(self.options) >= _KEPT_PLANS:
                self.options.clear()
            options = self.options[text] = parsed(self.part, text)
        return options

    def parameters(self, text, heads, kv_heads=None, dim=1, dim_v=None, max_length=1):
        """[(index, name, count, flags)] of the parameters that these options have."""
        config = self.config(heads, kv_heads, dim, dim_v, max_length)
        found, spec = [], ffi.new("di_attention_parameter *")
        for index in range(PARAMETERS):
            spec.name = _NULL
            if self.record.parameter:
                self.record.parameter(self.parse(text), config, index, spec)
            if spec.name:
                found.append((index, ffi.string(spec.name).decode(), spec.count, spec.flags))
        return found

    @staticmethod
    def config(heads, kv_heads, dim, dim_v, max_length):
        """A di_attention_config."""
        config = ffi.new("di_attention_config *")
        config.size = ffi.sizeof("di_attention_config")
        config.heads, config.kv_heads, config.dim = heads, kv_heads or heads, dim
        config.dim_v, config.max_length = dim_v or dim, max_length
        return config

    def saved_bytes(self, text, dtype, geometry):
        """Bytes that forward keeps for backward; sizes may be symbols (torch.compile)."""
        row, slack = (self._saved(text, dtype, *sizes) for sizes in ((1, 1, 1), (3, 2, 5)))
        if slack == 30 * row:
            return row * geometry.rows
        return self._saved(text, dtype, int(geometry.batch), int(geometry.heads), int(geometry.q_length))

    def _saved(self, text, dtype, batch, heads, length):
        shape, bytes_of = ffi.new("di_attention_shape *"), ffi.new("int64_t *")
        lib.di_attention_shape_init(shape, _DTYPES[dtype], batch, length, length, heads, 1, False)
        check(lib.di_attention_saved(self.record, self.parse(text), shape, bytes_of))
        return bytes_of[0]

    def slot(self, key, query, key_tensor, value, extras, left, right, top_left, backward):
        """Structs for this call: kept ones where shapes and strides were seen before."""
        free = None  # lengths and masks belong to one call
        if extras is None:
            if key not in self.plans and len(self.plans) >= _KEPT_PLANS:
                self.plans.clear()
            free = self.plans.setdefault(key, [])
        cu_q, cu_k = (extras.cu_q, extras.cu_k) if extras else (None, None)
        geometry = Geometry(query, key_tensor, value, cu_q is not None)
        shape, io = geometry.fill(query.dtype, left, right, top_left, cu_q, cu_k), ffi.new("di_attention_io *")
        io.size = ffi.sizeof("di_attention_io")
        for heads, tensor in ((io.q, query), (io.k, key_tensor), (io.v, value)):
            fill_strides(heads, tensor.stride())
        fill_strides(io.out, geometry.out_layout()[1])
        made = Slot(shape, io)
        if extras:
            extras.write(made)
        made.options, need = self.parse(key[0]), ffi.new("int64_t *")
        check(lib.di_attention_workspace(made.exec, self.record, made.options, shape, backward, need))
        made.need = made.exec.work_bytes = need[0]
        check(lib.di_attention_saved(self.record, made.options, shape, need))
        made.saved_bytes = need[0]
        made.size, made.stride = geometry.out_layout()
        return made, free


def rows_ready(tensor):
    """The tensor, or a copy where its last dimension is not contiguous."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] <= 1 else tensor.contiguous()
