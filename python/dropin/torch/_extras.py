# SPDX-License-Identifier: Apache-2.0
"""What a call of attention may have beyond query, key and value: checked against the sizes, in the dtype of the kernels."""
import torch

from dropin._library import ffi, lib

_DTYPES = {torch.bool: lib.DI_BOOLEAN, torch.float32: lib.DI_F32, torch.float64: lib.DI_F64}
# the operator's optional tensors, in the order of its schema; the first six may want gradients
TRAINED = ("slopes", "key_bias", "parameter_0", "parameter_1", "parameter_2", "parameter_3")
OTHERS = ("attn_mask", "query_lengths", "key_lengths", "cu_q", "cu_k")
NAMES = TRAINED + OTHERS


def pointer(tensor):
    """Its memory as void *."""
    return ffi.cast("void *", tensor.data_ptr())


def _disagree(name, shape, rule):
    return ValueError(f"attention: {name} has shape {list(shape)}; must be {rule}")


class Extras:
    """Tensors of one call, kept alive beside the structs that point at them."""

    def __init__(self, part, text, dtype, geometry, given):
        self.part, self.text, self.dtype, self.geometry = part, text, dtype, geometry
        self.given = given  # by name, as they came
        self.cu_q = self.cu_k = None
        if given["cu_q"] is not None:
            self.cu_q, self.cu_k = (self._cumulative(name, rows) for name, rows in (
                ("cu_q", geometry.q_length), ("cu_k", geometry.k_length)))
            if len(self.cu_q) != len(self.cu_k):
                raise ValueError(f"attention: cu_q has {len(self.cu_q)} numbers and cu_k {len(self.cu_k)}; must be sequences + 1 both")
        self.sequences = geometry.batch if self.cu_q is None else len(self.cu_q) - 1
        self.lengths = [self._lengths(name) for name in ("query_lengths", "key_lengths")]
        self.mask = self._mask(given["attn_mask"])
        self.slopes = self._slopes(given["slopes"])
        self.key_bias = self._key_bias(given["key_bias"])
        self.parameters = self._parameters()

    # ---- checks ------------------------------------------------------------------------------------------------------

    def _cumulative(self, name, rows):
        cu = self.given[name]
        if cu is None:
            raise ValueError(f"attention: {name}=None; packed sequences need cu_q and cu_k")
        if cu.dim() != 1 or len(cu) < 1:
            raise _disagree(name, cu.shape, "[sequences + 1]")
        cu = cu.to(torch.int32).contiguous()
        if int(cu[-1]) != rows:
            raise ValueError(f"attention: {name}[-1]={int(cu[-1])}; must be the number of rows, {rows}")
        return cu

    def _lengths(self, name):
        lengths = self.given[name]
        if lengths is None:
            return None
        if lengths.shape != (self.sequences,):
            raise _disagree(name, lengths.shape, f"[batch]=[{self.sequences}]")
        return lengths.to(torch.int32).contiguous()

    def _mask(self, mask):
        if mask is None:
            return None
        g = self.geometry
        if mask.dtype != torch.bool:
            if not mask.dtype.is_floating_point:
                raise TypeError(f"attention: attn_mask has dtype {mask.dtype}; must be bool (True keeps) or a float, which is added")
            mask = mask.to(self.dtype)
        if g.k_length > 1 and (mask.dim() == 0 or mask.stride(-1) != 1 or mask.shape[-1] == 1):
            mask = mask.expand(*mask.shape[:-1], g.k_length).contiguous() if not mask.dim() or mask.shape[-1] == 1 else mask.contiguous()
        want = (g.batch, g.heads, g.q_length, g.k_length)
        try:
            return mask.expand(want)
        except RuntimeError:
            raise _disagree("attn_mask", mask.shape, f"broadcastable to {list(want)}") from None

    def _slopes(self, slopes):
        if slopes is None:
            return None
        heads = self.geometry.heads
        if slopes.shape not in ((heads,), (self.sequences, heads)):
            raise _disagree("slopes", slopes.shape, f"[heads]=[{heads}] or [batch, heads]=[{self.sequences}, {heads}]")
        return slopes.to(self.dtype).contiguous()

    def _key_bias(self, bias):
        if bias is None:
            return None
        batch, keys = self.geometry.batch, self.geometry.k_length
        if self.cu_q is not None and bias.shape != (keys,):
            raise _disagree("key_bias", bias.shape, f"[total]=[{keys}]")
        if bias.shape not in ((keys,), (1, keys), (batch, keys)):
            raise _disagree("key_bias", bias.shape, f"[keys]=[{keys}] or [batch, keys]=[{batch}, {keys}]")
        return bias.to(self.dtype).contiguous()

    def _parameters(self):
        g, found = self.geometry, [None] * 4
        given = [self.given[f"parameter_{i}"] for i in range(4)]
        if not any(parameter is not None for parameter in given):
            return found
        longest = max(g.k_length, 1)
        if self.cu_k is not None and self.sequences:
            longest = max(int((self.cu_k[1:] - self.cu_k[:-1]).max()), 1)
        specs = {index: (name, count) for index, name, count, _ in
                 self.part.parameters(self.text, g.heads, g.kv_heads, g.dim, g.dim_v, longest)}
        counts = {count for index, _, count, _ in
                  self.part.parameters(self.text, g.heads, g.kv_heads, g.dim, g.dim_v, longest + 1)}
        for index, parameter in enumerate(given):
            if parameter is None:
                continue
            if index not in specs:
                raise ValueError(f"{self.part.name}: parameter {index} is given; the options {self.text!r} have no such parameter")
            name, count = specs[index]
            per_key = count not in counts  # grows with the length: a longer one is fine
            if parameter.numel() != count and not (per_key and parameter.numel() > count):
                least = "at least " if per_key else ""
                raise _disagree(name, parameter.shape, f"{least}[{count}] with the options {self.text!r}")
            found[index] = parameter.to(self.dtype).contiguous()
        return found

    # ---- into the structs ----------------------------------------------------------------------------------------------

    def write(self, slot):
        """Points the structs of a slot at these tensors."""
        mask, io = slot.shape.mask, slot.io
        for name, lengths in zip(("q_lengths", "k_lengths", "cu_q", "cu_k"), (*self.lengths, self.cu_q, self.cu_k)):
            if lengths is not None:
                setattr(mask, name, ffi.cast("int32_t *", pointer(lengths)))
        if self.mask is not None:
            mask.dense, mask.dense_dtype = pointer(self.mask), _DTYPES[self.mask.dtype]
            mask.batch_stride, mask.head_stride, mask.row_stride, _ = self.mask.stride()
        if self.slopes is not None:
            io.slopes = pointer(self.slopes)
            io.slopes_batch_stride = self.geometry.heads if self.slopes.dim() == 2 else 0
        if self.key_bias is not None:
            io.key_bias = pointer(self.key_bias)
            io.key_bias_batch_stride = self.geometry.k_length if self.key_bias.dim() == 2 and len(self.key_bias) > 1 else 0
        for index, parameter in enumerate(self.parameters):
            if parameter is not None:
                io.parameters[index] = pointer(parameter)

    def gradients(self, slot, wanted):
        """{name: fresh gradient, in the kernels' dtype} for the wanted ones, entered into slot.grad."""
        made = {}
        held = {"slopes": self.slopes, "key_bias": self.key_bias, **{f"parameter_{i}": p for i, p in enumerate(self.parameters)}}
        for name in wanted:
            made[name] = torch.zeros_like(held[name])
            if name.startswith("parameter"):
                slot.grad.parameters[int(name[-1])] = pointer(made[name])
            else:
                setattr(slot.grad, name, pointer(made[name]))
        return made
