# SPDX-License-Identifier: Apache-2.0
"""One operator a part, dropin::softmax_attention and so on, with its backward: kernels, fake kernels, autograd, autocast, no vmap.

    out, saved = dropin::PART_attention(query, key, value, options, keep, left, right, top_left, slopes, …)

`options` is the part's option text, `keep` asks for what backward needs (saved, opaque bytes), left and right are the window
(-1: free). Tensors are [batch, heads, length, dim], or packed [total, heads, dim] with cu_q and cu_k.
"""
import torch

from dropin._library import check, ffi, lib
from dropin.torch import _kernel as kernel
from dropin.torch._extras import NAMES, TRAINED, Extras, pointer
from dropin.torch._kernel import Geometry, Part, rows_ready, scratch

LIBRARY = torch.library.Library("dropin", "DEF")
_OPTIONAL = ", ".join(f"Tensor? {name}=None" for name in (*NAMES, "seed"))
_TAIL = f"str options, bool keep, int left, int right, bool top_left, {_OPTIONAL}"
_FORWARD = f"(Tensor query, Tensor key, Tensor value, {_TAIL}) -> (Tensor, Tensor)"
_BACKWARD = ("(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor out, Tensor saved, "
             f"int wanted, {_TAIL}) -> Tensor[]")
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
_COMPUTED = {torch.float32: torch.float32, torch.float64: torch.float64, torch.bfloat16: torch.float32}
_DIRECT = (torch.float32, torch.float64)
_FIRST_OPTIONAL = 8  # of the forward's arguments
_PLACES = (0, 1, 2, *range(_FIRST_OPTIONAL, _FIRST_OPTIONAL + len(TRAINED)))  # of the arguments with gradients: the bits of `wanted`
_NULL = ffi.NULL
_Q, _K, _V, _OUT, _WORK = kernel.Q, kernel.K, kernel.V, kernel.OUT, kernel.WORK
_forward = lib.di_attention_forward
_empty_strided, _threads, compiling = torch.empty_strided, torch.get_num_threads, torch.compiler.is_compiling
PLAIN = (torch.Tensor, torch.nn.Parameter)
_level, _modes, _tracing = torch._C._functorch.maybe_current_level, torch._C._len_torch_dispatch_stack, torch._C._get_tracing_state
_autocast, _profiling = torch._C._is_any_autocast_enabled, torch._C._autograd._profiler_enabled


def _compute_dtype(query, key, value):
    dtype = query.dtype
    if dtype not in _COMPUTED:
        raise TypeError(f"attention: query has dtype {dtype}; must be float32, float64 or bfloat16")
    if key.dtype != dtype or value.dtype != dtype:
        raise TypeError(f"attention: query is {dtype}, key {key.dtype}, value {value.dtype}; must be one dtype")
    return _COMPUTED[dtype]


def plain(a, b, c):
    """Nothing but CPU tensors, and nobody listening: then the dispatcher would do nothing but call our kernel."""
    return (type(a) in PLAIN and type(b) in PLAIN and type(c) in PLAIN and a.is_cpu and b.is_cpu and c.is_cpu
            and _level() is None and not _modes() and not _autocast() and not _profiling() and _tracing() is None
            and not (a.is_neg() or b.is_neg() or c.is_neg()))


class Operator:
    """The two operators of one part."""

    def __init__(self, record):
        self.part = Part(record)
        self.record = record
        name = f"{self.part.name}_attention"
        LIBRARY.define(name + _FORWARD)
        LIBRARY.define(f"{name}_backward{_BACKWARD}")
        LIBRARY.impl(name, self.operator_forward, "CPU")
        LIBRARY.impl(f"{name}_backward", self.backward, "CPU")
        full, full_backward = f"dropin::{name}", f"dropin::{name}_backward"
        torch.library.register_fake(full, self.fake, lib=LIBRARY)
        torch.library.register_fake(full_backward, self.fake_backward, lib=LIBRARY)
        self.op = getattr(torch.ops.dropin, name).default
        self.backward_op = getattr(torch.ops.dropin, f"{name}_backward").default
        torch.library.register_autograd(full, self.differentiate, setup_context=self.keep, lib=LIBRARY)
        torch.library.register_autograd(full_backward, self.refuse_second, lib=LIBRARY)
        for registered in (full, full_backward):
            torch.library.register_vmap(registered, self.refuse_vmap, lib=LIBRARY)
        LIBRARY.impl(name, self.autocast, "AutocastCPU")
        self.function = type(name, (torch.autograd.Function,), {
            "forward": staticmethod(self.apply_forward), "backward": staticmethod(self.differentiate),
            "__doc__": "The short way of eager mode to the same operators."})
        self.transformed = type(name, (torch.autograd.Function,), {
            "forward": staticmethod(self.outputs), "setup_context": staticmethod(self.keep), "backward": staticmethod(self.differentiate),
            "vmap": staticmethod(self.refuse_vmap), "__doc__": "What torch.func differentiates."})
        self.transformed_backward = type(f"{name}_backward", (torch.autograd.Function,), {
            "forward": staticmethod(self.outputs_backward), "setup_context": staticmethod(lambda ctx, inputs, output: None),
            "backward": staticmethod(self.refuse_second), "vmap": staticmethod(self.refuse_vmap), "__doc__": "Its backward."})

    # ---- kernels -------------------------------------------------------------------------------------------------------

    @staticmethod
    def key(query, key, value, text, left, right, top_left, backward):
        """What a kept slot depends on."""
        return (text, backward, query.dtype, query.shape, key.shape, value.shape, query.stride(), key.stride(), value.stride(), left, right,
                top_left, _threads())

    def run(self, free, query, key, value):
        """Forward by a kept slot of the list `free`, which is not empty."""
        slot = free.pop()
        out = _empty_strided(slot.size, slot.stride, dtype=query.dtype)
        words = slot.io_words
        words[_Q], words[_K], words[_V], words[_OUT] = query.data_ptr(), key.data_ptr(), value.data_ptr(), out.data_ptr()
        slot.exec_words[_WORK], buffer = scratch(slot.need)
        status = _forward(slot.exec, self.record, slot.options, slot.shape, slot.io, _NULL)
        del buffer
        free.append(slot)
        if status:
            check(status)
        return out

    def _slot(self, query, key, value, text, left, right, top_left, optional, backward):
        """A filled slot, its free list (None: made for this call) and the extras."""
        for x in optional[:len(NAMES)]:
            if x is not None:
                break
        else:
            found = self.key(query, key, value, text, left, right, top_left, backward)
            free = self.part.plans.get(found)
            if free:
                return free.pop(), free, None
            return *self.part.slot(found, query, key, value, None, left, right, top_left, backward), None
        given = dict(zip(NAMES, optional + (None,) * (len(NAMES) - len(optional))))
        packed = given["cu_q"] is not None or given["cu_k"] is not None
        extras = Extras(self.part, text, query.dtype, Geometry(query, key, value, packed), given)
        return *self.part.slot((text, None), query, key, value, extras, left, right, top_left, backward), extras

    def forward(self, query, key, value, options, keep, left, right, top_left, *optional):
        """The CPU kernel."""
        dtype = query.dtype
        if dtype not in _DIRECT or key.dtype is not dtype or value.dtype is not dtype:
            dtype, stored = _compute_dtype(query, key, value), dtype
            query, key, value = (x.to(dtype) for x in (query, key, value))
            out, saved = self.forward(query, key, value, options, keep, left, right, top_left, *optional)
            return out.to(stored), saved
        if query.stride(-1) != 1 or key.stride(-1) != 1 or value.stride(-1) != 1:
            query, key, value = rows_ready(query), rows_ready(key), rows_ready(value)
        slot, free, extras = self._slot(query, key, value, options, left, right, top_left, optional, False)
        out = _empty_strided(slot.size, slot.stride, dtype=dtype)
        if keep:
            saved = torch.empty(slot.saved_bytes, dtype=torch.uint8)
            kept = pointer(saved)
        else:
            saved, kept = None, _NULL
        words = slot.io_words
        words[_Q], words[_K], words[_V], words[_OUT] = query.data_ptr(), key.data_ptr(), value.data_ptr(), out.data_ptr()
        slot.exec_words[_WORK], buffer = scratch(slot.need)
        if len(optional) > len(NAMES) and optional[-1] is not None:
            slot.exec.seed, slot.exec.flags = int(optional[-1]) & (2**64 - 1), lib.DI_TRAIN
        status = lib.di_attention_forward(slot.exec, self.record, slot.options, slot.shape, slot.io, kept)
        slot.exec.flags = 0
        del buffer
        if free is not None:
            free.append(slot)
        if status:
            check(status)
        return out, saved

    def operator_forward(self, *given):
        """The CPU kernel as the dispatcher calls it: both results are tensors of their own."""
        out, saved = self.forward(*given)
        return out, torch.empty(0, dtype=torch.uint8) if saved is None else saved

    def backward(self, grad, query, key, value, out, saved, wanted, options, keep, left, right, top_left, *optional):
        """The CPU kernel of the gradients: those whose bit is set in `wanted`."""
        dtype, stored = _compute_dtype(query, key, value), query.dtype
        if dtype is not stored:
            grad, query, key, value, out = (x.to(dtype) for x in (grad, query, key, value, out))
        grad, query, key, value, out = (rows_ready(x) for x in (grad, query, key, value, out))
        slot, free, extras = self._slot(query, key, value, options, left, right, top_left, optional, True)
        if slot.grad is None:
            slot.grad = ffi.new("di_attention_grad *")
            slot.grad.size = ffi.sizeof("di_attention_grad")
            slot.grad_words = ffi.cast("uintptr_t *", slot.grad)
        kernel.fill_strides(slot.grad.out, grad.stride())
        kernel.fill_strides(slot.io.out, out.stride())
        words, grad_words = slot.io_words, slot.grad_words
        words[_Q], words[_K], words[_V], words[_OUT] = query.data_ptr(), key.data_ptr(), value.data_ptr(), out.data_ptr()
        grad_words[kernel.D_OUT] = grad.data_ptr()
        made = []
        for bit, (word, heads, like) in enumerate(((kernel.D_Q, slot.grad.q, query), (kernel.D_K, slot.grad.k, key),
                                                   (kernel.D_V, slot.grad.v, value))):
            grad_words[word] = 0
            if wanted >> bit & 1:
                result = torch.empty_like(like)
                if result.stride(-1) != 1 and result.shape[-1] > 1:
                    result = torch.empty_like(like, memory_format=torch.contiguous_format)
                kernel.fill_strides(heads, result.stride())
                grad_words[word] = result.data_ptr()
                made.append(result)
        names = [name for bit, name in enumerate(TRAINED) if wanted >> (bit + 3) & 1]
        trained = extras.gradients(slot, names) if extras else {}
        slot.exec_words[_WORK], buffer = scratch(slot.need)
        if len(optional) > len(NAMES) and optional[-1] is not None:
            slot.exec.seed, slot.exec.flags = int(optional[-1]) & (2**64 - 1), lib.DI_TRAIN
        status = lib.di_attention_backward(slot.exec, self.record, slot.options, slot.shape, slot.io,
                                           pointer(saved) if len(saved) else _NULL, slot.grad)
        slot.exec.flags = 0
        del buffer
        if free is not None:
            free.append(slot)
        if status:
            check(status)
        if dtype is not stored:
            made = [x.to(stored) for x in made]
        return made + [trained[name].to(extras.given[name].dtype).reshape(extras.given[name].shape) for name in names]

    # ---- fake kernels: shapes, strides and dtypes alone ------------------------------------------------------------------

    def fake(self, query, key, value, options, keep, left, right, top_left, *optional, **named):
        """What forward would return."""
        dtype = _compute_dtype(query, key, value)
        named.update(zip(NAMES, optional))
        geometry = Geometry(query, key, value, named.get("cu_q") is not None)
        size, stride = geometry.out_layout()
        out = query.new_empty_strided(size, stride)
        saved = self.part.saved_bytes(options, dtype, geometry) if keep else 0
        return out, query.new_empty((saved,), dtype=torch.uint8)

    def fake_backward(self, grad, query, key, value, out, saved, wanted, options, keep, left, right, top_left, *optional, **named):
        """What backward would return."""
        named.update(zip(NAMES, optional))
        made = [torch.empty_like(rows_ready(x)) for bit, x in enumerate((query, key, value)) if wanted >> bit & 1]
        return made + [torch.empty_like(named[name], memory_format=torch.contiguous_format)
                       for bit, name in enumerate(TRAINED) if wanted >> (bit + 3) & 1]

    # ---- autograd -----------------------------------------------------------------------------------------------------------

    @staticmethod
    def keep(ctx, inputs, output):
        """Saves for backward."""
        query, key, value, options, _, left, right, top_left, *optional = inputs
        optional += [None] * (len(NAMES) + 1 - len(optional))
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(query, key, value, *output, *optional)
        ctx.statics = (options, True, left, right, top_left)

    def differentiate(self, ctx, grad, _=None):
        """Calls the backward operator for the inputs that want it."""
        needed = ctx.needs_input_grad
        arguments = [None] * len(needed)
        if grad is None:
            return tuple(arguments)
        query, key, value, out, saved, *optional = ctx.saved_tensors
        places, wanted = [], 0
        for bit, place in enumerate(_PLACES[:len(needed)]):
            if place < len(needed) and needed[place]:
                places.append(place)
                wanted |= 1 << bit
        backward = self.backward_op
        if not compiling():
            if _level() is not None:
                backward = self.transformed_backward.apply
            elif not torch.is_grad_enabled() and plain(grad, query, key):
                backward = self.backward
        for place, result in zip(places, backward(grad, query, key, value, out, saved, wanted, *ctx.statics, *optional)):
            arguments[place] = result
        return tuple(arguments)

    def apply_forward(self, ctx, *inputs):
        """Forward of the short way: the kernel itself, in a node of our own."""
        out, saved = self.forward(*inputs)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:3], out, saved, *inputs[_FIRST_OPTIONAL:])
        ctx.statics = (inputs[3], True, *inputs[5:_FIRST_OPTIONAL])
        ctx.mark_non_differentiable(saved)
        return out, saved

    def refuse_second(self, ctx, *grads):
        """Gradients of gradients."""
        raise NotImplementedError(f"dropin: second derivatives of {self.part.name} attention are not offered")

    def refuse_vmap(self, *_, **__):
        """Batching by torch.func."""
        raise NotImplementedError(f"dropin: vmap over {self.part.name} attention is not offered; fold the mapped dimension into the batch")

    # ---- autocast ------------------------------------------------------------------------------------------------------------

    def autocast(self, query, key, value, *rest, **named):
        """As torch has it for its own attention: float32 and below become autocast's dtype; float64 stays."""
        to = torch.get_autocast_dtype("cpu")
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            query, key, value = (x if x.dtype == torch.float64 or not x.is_floating_point() else x.to(to) for x in (query, key, value))
            return self.op(query, key, value, *rest, **named)

    # ---- the call --------------------------------------------------------------------------------------------------------------

    def __call__(self, query, key, value, options, keep, left, right, top_left, *optional):
        """The result. Plain tensors in eager mode take the short way to the same kernels, for the dispatcher takes longer to call an
        operator written in Python than a short attention lasts; whatever transforms, traces, fakes or profiles gets the operator."""
        if compiling() or not plain(query, key, value):
            return self.outputs(query, key, value, options, keep, left, right, top_left, *optional)[0]
        if keep:
            return self.function.apply(query, key, value, options, keep, left, right, top_left, *optional)[0]
        return self.forward(query, key, value, options, keep, left, right, top_left, *optional)[0]

    def outputs(self, *given):
        """Both results of the operator. torch.func cannot look into the autograd of an operator, but into a function's."""
        if not compiling() and _level() is not None:
            return self.transformed.apply(*given)
        return self.op(*given)

    def outputs_backward(self, *given):
        """The same of the backward."""
        if _level() is not None:
            return self.transformed_backward.apply(*given)
        return tuple(self.backward_op(*given))


def _operators():
    count = ffi.new("int64_t *")
    records = lib.di_attention_list(count)
    return {ffi.string(records[i].part.name).decode(): Operator(records[i]) for i in range(count[0])}


OPERATORS = _operators()
