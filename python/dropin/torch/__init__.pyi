# SPDX-License-Identifier: Apache-2.0
# Printed by python -m dropin._stubs --write from the option rows; a test compares.
from typing import Any, Literal

import torch
from torch import Tensor

class Optimizer(torch.optim.Optimizer):
    def __init__(self, params: Any, *, threads: Any, seed: Any, max_norm: Any, per_layer: Any, accumulation: Any,
            **defaults: Any) -> None: ...
    def add_param_group(self, param_group: Any) -> Any: ...
    def load_state_dict(self, state_dict: Any) -> Any: ...
    @property
    def report(self) -> Any: ...
    def state_bytes(self) -> Any: ...
    def state_dict(self) -> Any: ...
    def step(self, closure: Any = None) -> Any: ...
    def to_bitsandbytes(self) -> Any: ...

class AdEMAMix(Optimizer):
    def __init__(self, params: Any, lr: float = 0.001, betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
            alpha: float = 5.0, eps: float = 1e-08, weight_decay: float = 0.01, *, t_alpha: Any = 'auto', t_beta3: Any = 'auto',
            maximize: bool = False, bits: Literal[32, 8] = 32, block: int = 256, min_8bit_size: int = 4096,
            codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False, sign_repair: bool = False,
            nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto', skip_zeros: bool = False,
            percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', foreach: Any = None, fused: Any = None,
            capturable: bool = False, differentiable: bool = False, threads: Any = None, seed: int = 0, max_norm: float = 0.0,
            per_layer: bool = False, accumulation: int = 1) -> None: ...

class AdEMAMix8bit(Optimizer):
    def __init__(self, params: Any, lr: float = 0.001, betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
            alpha: float = 5.0, eps: float = 1e-08, weight_decay: float = 0.01, *, t_alpha: Any = 'auto', t_beta3: Any = 'auto',
            maximize: bool = False, bits: Literal[32, 8] = 8, block: int = 256, min_8bit_size: int = 4096,
            codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False, sign_repair: bool = False,
            nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto', skip_zeros: bool = False,
            percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', foreach: Any = None, fused: Any = None,
            capturable: bool = False, differentiable: bool = False, threads: Any = None, seed: int = 0, max_norm: float = 0.0,
            per_layer: bool = False, accumulation: int = 1) -> None: ...

class Adagrad(Optimizer):
    def __init__(self, params: Any, lr: float = 0.01, lr_decay: float = 0.0, weight_decay: float = 0.0,
            initial_accumulator_value: float = 0.0, eps: float = 1e-10, foreach: Any = None, *, maximize: bool = False,
            bits: Literal[32, 8] = 32, block: int = 256, min_8bit_size: int = 4096,
            codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False, sign_repair: bool = False,
            nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto', skip_zeros: bool = False,
            percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', differentiable: bool = False, fused: Any = None,
            capturable: bool = False, threads: Any = None, seed: int = 0, max_norm: float = 0.0, per_layer: bool = False,
            accumulation: int = 1) -> None: ...

class Adagrad8bit(Optimizer):
    def __init__(self, params: Any, lr: float = 0.01, lr_decay: float = 0.0, weight_decay: float = 0.0,
            initial_accumulator_value: float = 0.0, eps: float = 1e-10, foreach: Any = None, *, maximize: bool = False,
            bits: Literal[32, 8] = 8, block: int = 256, min_8bit_size: int = 4096,
            codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False, sign_repair: bool = False,
            nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto', skip_zeros: bool = False,
            percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', differentiable: bool = False, fused: Any = None,
            capturable: bool = False, threads: Any = None, seed: int = 0, max_norm: float = 0.0, per_layer: bool = False,
            accumulation: int = 1) -> None: ...

class Adam(Optimizer):
    def __init__(self, params: Any, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-08,
            weight_decay: float = 0.0, amsgrad: bool = False, *, decoupled_weight_decay: bool = False,
            decay_order: Literal['before', 'after'] = 'before', eps_mode: Literal['corrected', 'raw'] = 'corrected',
            maximize: bool = False, bits: Literal[32, 8] = 32, block: int = 256, min_8bit_size: int = 4096,
            codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False, sign_repair: bool = False,
            nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto', skip_zeros: bool = False,
            percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', foreach: Any = None, capturable: bool = False,
            differentiable: bool = False, fused: Any = None, threads: Any = None, seed: int = 0, max_norm: float = 0.0,
            per_layer: bool = False, accumulation: int = 1) -> None: ...

class Adam8bit(Optimizer):
    def __init__(self, params: Any, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-08,
            weight_decay: float = 0.0, amsgrad: bool = False, *, decoupled_weight_decay: bool = False,
            decay_order: Literal['before', 'after'] = 'before', eps_mode: Literal['corrected', 'raw'] = 'corrected',
            maximize: bool = False, bits: Literal[32, 8] = 8, block: int = 256, min_8bit_size: int = 4096,
            codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False, sign_repair: bool = False,
            nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto', skip_zeros: bool = False,
            percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', foreach: Any = None, capturable: bool = False,
            differentiable: bool = False, fused: Any = None, threads: Any = None, seed: int = 0, max_norm: float = 0.0,
            per_layer: bool = False, accumulation: int = 1) -> None: ...

class AdamW(Optimizer):
    def __init__(self, params: Any, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-08,
            weight_decay: float = 0.01, amsgrad: bool = False, *, decay_order: Literal['before', 'after'] = 'before',
            eps_mode: Literal['corrected', 'raw'] = 'corrected', maximize: bool = False, bits: Literal[32, 8] = 32,
            block: int = 256, min_8bit_size: int = 4096, codes: Literal['nearest', 'stochastic'] = 'nearest',
            signed_scale: bool = False, sign_repair: bool = False,
            nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto', skip_zeros: bool = False,
            percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', foreach: Any = None, capturable: bool = False,
            differentiable: bool = False, fused: Any = None, threads: Any = None, seed: int = 0, max_norm: float = 0.0,
            per_layer: bool = False, accumulation: int = 1) -> None: ...

class AdamW8bit(Optimizer):
    def __init__(self, params: Any, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-08,
            weight_decay: float = 0.01, amsgrad: bool = False, *, decay_order: Literal['before', 'after'] = 'before',
            eps_mode: Literal['corrected', 'raw'] = 'corrected', maximize: bool = False, bits: Literal[32, 8] = 8,
            block: int = 256, min_8bit_size: int = 4096, codes: Literal['nearest', 'stochastic'] = 'nearest',
            signed_scale: bool = False, sign_repair: bool = False,
            nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto', skip_zeros: bool = False,
            percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', foreach: Any = None, capturable: bool = False,
            differentiable: bool = False, fused: Any = None, threads: Any = None, seed: int = 0, max_norm: float = 0.0,
            per_layer: bool = False, accumulation: int = 1) -> None: ...

class GaLoreAdamW(Optimizer):
    def __init__(self, params: Any, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-06,
            weight_decay: float = 0.0, amsgrad: bool = False, *, decay_order: Literal['before', 'after'] = 'after',
            eps_mode: Literal['corrected', 'raw'] = 'raw', maximize: bool = False, bits: Literal[32, 8] = 32, block: int = 256,
            min_8bit_size: int = 4096, codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False,
            sign_repair: bool = False, nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto',
            skip_zeros: bool = False, percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'galore', foreach: Any = None, capturable: bool = False,
            differentiable: bool = False, fused: Any = None, threads: Any = None, seed: int = 0, max_norm: float = 0.0,
            per_layer: bool = False, accumulation: int = 1) -> None: ...

class GaLoreAdamW8bit(Optimizer):
    def __init__(self, params: Any, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-06,
            weight_decay: float = 0.0, amsgrad: bool = False, *, decay_order: Literal['before', 'after'] = 'after',
            eps_mode: Literal['corrected', 'raw'] = 'raw', maximize: bool = False, bits: Literal[32, 8] = 8, block: int = 256,
            min_8bit_size: int = 4096, codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False,
            sign_repair: bool = False, nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto',
            skip_zeros: bool = False, percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'galore', foreach: Any = None, capturable: bool = False,
            differentiable: bool = False, fused: Any = None, threads: Any = None, seed: int = 0, max_norm: float = 0.0,
            per_layer: bool = False, accumulation: int = 1) -> None: ...

class LAMB(Optimizer):
    def __init__(self, params: Any, lr: float = 0.001, weight_decay: float = 0.0, *, bias_correction: bool = True,
            trust: Literal['ratio', 'clip', 'none'] = 'ratio', trust_coefficient: float = 1.0,
            betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-08, eps_mode: Literal['corrected', 'raw'] = 'corrected',
            maximize: bool = False, bits: Literal[32, 8] = 32, block: int = 256, min_8bit_size: int = 4096,
            codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False, sign_repair: bool = False,
            nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto', skip_zeros: bool = False,
            percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', foreach: Any = None, fused: Any = None,
            capturable: bool = False, differentiable: bool = False, threads: Any = None, seed: int = 0, max_norm: float = 0.0,
            per_layer: bool = False, accumulation: int = 1) -> None: ...

class LAMB8bit(Optimizer):
    def __init__(self, params: Any, lr: float = 0.001, weight_decay: float = 0.0, *, bias_correction: bool = True,
            trust: Literal['ratio', 'clip', 'none'] = 'ratio', trust_coefficient: float = 1.0,
            betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-08, eps_mode: Literal['corrected', 'raw'] = 'corrected',
            maximize: bool = False, bits: Literal[32, 8] = 8, block: int = 256, min_8bit_size: int = 4096,
            codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False, sign_repair: bool = False,
            nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto', skip_zeros: bool = False,
            percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', foreach: Any = None, fused: Any = None,
            capturable: bool = False, differentiable: bool = False, threads: Any = None, seed: int = 0, max_norm: float = 0.0,
            per_layer: bool = False, accumulation: int = 1) -> None: ...

class LARS(Optimizer):
    def __init__(self, params: Any, lr: float = 0.001, momentum: float = 0.9, trust: Literal['ratio', 'clip', 'none'] = 'ratio',
            trust_coefficient: float = 0.02, dampening: float = 0.0, weight_decay: float = 0.0, *, nesterov: bool = False,
            maximize: bool = False, bits: Literal[32, 8] = 32, block: int = 256, min_8bit_size: int = 4096,
            codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False, sign_repair: bool = False,
            nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto', skip_zeros: bool = False,
            percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', foreach: Any = None, fused: Any = None,
            capturable: bool = False, differentiable: bool = False, threads: Any = None, seed: int = 0, max_norm: float = 0.0,
            per_layer: bool = False, accumulation: int = 1) -> None: ...

class LARS8bit(Optimizer):
    def __init__(self, params: Any, lr: float = 0.001, momentum: float = 0.9, trust: Literal['ratio', 'clip', 'none'] = 'ratio',
            trust_coefficient: float = 0.02, dampening: float = 0.0, weight_decay: float = 0.0, *, nesterov: bool = False,
            maximize: bool = False, bits: Literal[32, 8] = 8, block: int = 256, min_8bit_size: int = 4096,
            codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False, sign_repair: bool = False,
            nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto', skip_zeros: bool = False,
            percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', foreach: Any = None, fused: Any = None,
            capturable: bool = False, differentiable: bool = False, threads: Any = None, seed: int = 0, max_norm: float = 0.0,
            per_layer: bool = False, accumulation: int = 1) -> None: ...

class Lion(Optimizer):
    def __init__(self, params: Any, lr: float = 0.0001, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0, *,
            maximize: bool = False, bits: Literal[32, 8] = 32, block: int = 256, min_8bit_size: int = 4096,
            codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False, sign_repair: bool = False,
            nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto', skip_zeros: bool = False,
            percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', foreach: Any = None, fused: Any = None,
            capturable: bool = False, differentiable: bool = False, threads: Any = None, seed: int = 0, max_norm: float = 0.0,
            per_layer: bool = False, accumulation: int = 1) -> None: ...

class Lion8bit(Optimizer):
    def __init__(self, params: Any, lr: float = 0.0001, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0, *,
            maximize: bool = False, bits: Literal[32, 8] = 8, block: int = 256, min_8bit_size: int = 4096,
            codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False, sign_repair: bool = False,
            nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto', skip_zeros: bool = False,
            percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', foreach: Any = None, fused: Any = None,
            capturable: bool = False, differentiable: bool = False, threads: Any = None, seed: int = 0, max_norm: float = 0.0,
            per_layer: bool = False, accumulation: int = 1) -> None: ...

class NaturalGaLoreAdamW(Optimizer):
    def __init__(self, params: Any, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-06,
            weight_decay: float = 0.0, amsgrad: bool = False, *, decay_order: Literal['before', 'after'] = 'after',
            eps_mode: Literal['corrected', 'raw'] = 'raw', maximize: bool = False, bits: Literal[32, 8] = 32, block: int = 256,
            min_8bit_size: int = 4096, codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False,
            sign_repair: bool = False, nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto',
            skip_zeros: bool = False, percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'natural_galore', foreach: Any = None,
            capturable: bool = False, differentiable: bool = False, fused: Any = None, threads: Any = None, seed: int = 0,
            max_norm: float = 0.0, per_layer: bool = False, accumulation: int = 1) -> None: ...

class RMSprop(Optimizer):
    def __init__(self, params: Any, lr: float = 0.01, alpha: float = 0.99, eps: float = 1e-08, weight_decay: float = 0.0,
            momentum: float = 0.0, centered: bool = False, capturable: bool = False, foreach: Any = None, maximize: bool = False,
            differentiable: bool = False, *, bits: Literal[32, 8] = 32, block: int = 256, min_8bit_size: int = 4096,
            codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False, sign_repair: bool = False,
            nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto', skip_zeros: bool = False,
            percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', fused: Any = None, threads: Any = None,
            seed: int = 0, max_norm: float = 0.0, per_layer: bool = False, accumulation: int = 1) -> None: ...

class RMSprop8bit(Optimizer):
    def __init__(self, params: Any, lr: float = 0.01, alpha: float = 0.99, eps: float = 1e-08, weight_decay: float = 0.0,
            momentum: float = 0.0, centered: bool = False, capturable: bool = False, foreach: Any = None, maximize: bool = False,
            differentiable: bool = False, *, bits: Literal[32, 8] = 8, block: int = 256, min_8bit_size: int = 4096,
            codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False, sign_repair: bool = False,
            nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto', skip_zeros: bool = False,
            percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', fused: Any = None, threads: Any = None,
            seed: int = 0, max_norm: float = 0.0, per_layer: bool = False, accumulation: int = 1) -> None: ...

class SGD(Optimizer):
    def __init__(self, params: Any, lr: float = 0.001, momentum: float = 0.0, dampening: float = 0.0, weight_decay: float = 0.0,
            nesterov: bool = False, *, maximize: bool = False, bits: Literal[32, 8] = 32, block: int = 256,
            min_8bit_size: int = 4096, codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False,
            sign_repair: bool = False, nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto',
            skip_zeros: bool = False, percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', foreach: Any = None, differentiable: bool = False,
            fused: Any = None, capturable: bool = False, threads: Any = None, seed: int = 0, max_norm: float = 0.0,
            per_layer: bool = False, accumulation: int = 1) -> None: ...

class SGD8bit(Optimizer):
    def __init__(self, params: Any, lr: float = 0.001, momentum: float = 0.9, dampening: float = 0.0, weight_decay: float = 0.0,
            nesterov: bool = False, *, maximize: bool = False, bits: Literal[32, 8] = 8, block: int = 256,
            min_8bit_size: int = 4096, codes: Literal['nearest', 'stochastic'] = 'nearest', signed_scale: bool = False,
            sign_repair: bool = False, nonfinite: Literal['auto', 'skip', 'reset', 'skip_tensor', 'error', 'propagate'] = 'auto',
            skip_zeros: bool = False, percentile_clipping: int = 100, weights: Literal['nearest', 'stochastic'] = 'nearest',
            compat: Literal['none', 'bnb'] = 'none', projector: str = 'none', foreach: Any = None, differentiable: bool = False,
            fused: Any = None, capturable: bool = False, threads: Any = None, seed: int = 0, max_norm: float = 0.0,
            per_layer: bool = False, accumulation: int = 1) -> None: ...

class SigmoidAttention(torch.nn.Module):
    def __init__(self, heads: int, dim: int, max_length: int | None = None, *, kv_heads: int | None = None,
            dim_v: int | None = None, is_causal: bool = False, bottom_right: bool = False, window: tuple[int, int] | None = None,
            dtype: torch.dtype | None = None, bias: float | Literal["auto"] = 'auto',
            form: Literal['scalar', 'head', 'key'] = 'scalar', train_bias: bool = False, scale: float | Literal["auto"] = 'auto',
            train_scale: bool = False, alibi: bool = False, train_slopes: bool = False, dropout: float = 0.0) -> None: ...
    def extra_repr(self) -> str: ...
    def forward(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: torch.Tensor | None = None, *,
            query_lengths: torch.Tensor | None = None, key_lengths: torch.Tensor | None = None, cu_q: torch.Tensor | None = None,
            cu_k: torch.Tensor | None = None, slopes: torch.Tensor | None = None,
            key_bias: torch.Tensor | None = None) -> Tensor: ...

class SoftmaxAttention(torch.nn.Module):
    def __init__(self, heads: int, dim: int, max_length: int | None = None, *, kv_heads: int | None = None,
            dim_v: int | None = None, is_causal: bool = False, bottom_right: bool = False, window: tuple[int, int] | None = None,
            dtype: torch.dtype | None = None, scale: float | Literal["auto"] = 'auto', train_scale: bool = False,
            alibi: bool = False, train_slopes: bool = False, dropout: float = 0.0) -> None: ...
    def extra_repr(self) -> str: ...
    def forward(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: torch.Tensor | None = None, *,
            query_lengths: torch.Tensor | None = None, key_lengths: torch.Tensor | None = None, cu_q: torch.Tensor | None = None,
            cu_k: torch.Tensor | None = None, slopes: torch.Tensor | None = None,
            key_bias: torch.Tensor | None = None) -> Tensor: ...

class StableEmbedding(torch.nn.Embedding):
    def __init__(self, num_embeddings: Any, embedding_dim: Any, padding_idx: Any = None, max_norm: Any = None,
            norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False, _weight: Any = None,
            device: Any = None, dtype: Any = None) -> None: ...
    def forward(self, input: Any) -> Any: ...
    def reset_parameters(self) -> Any: ...

def sigmoid_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | Tensor | None = None, enable_gqa: bool = False, *, bottom_right: bool = False,
        window: tuple[int, int] | None = None, query_lengths: Tensor | None = None, key_lengths: Tensor | None = None,
        cu_q: Tensor | None = None, cu_k: Tensor | None = None, slopes: Tensor | None = None, key_bias: Tensor | None = None,
        bias: float | Literal["auto"] | Tensor = 'auto', form: Literal['scalar', 'head', 'key'] = 'scalar',
        alibi: bool = False) -> Tensor: ...

def softmax_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | Tensor | None = None, enable_gqa: bool = False, *, bottom_right: bool = False,
        window: tuple[int, int] | None = None, query_lengths: Tensor | None = None, key_lengths: Tensor | None = None,
        cu_q: Tensor | None = None, cu_k: Tensor | None = None, slopes: Tensor | None = None, key_bias: Tensor | None = None,
        alibi: bool = False) -> Tensor: ...
