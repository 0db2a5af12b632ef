# SPDX-License-Identifier: Apache-2.0
"""The embedding that keeps 8-bit optimizers stable (arXiv 2110.02861, section 2.3)."""
import torch


class StableEmbedding(torch.nn.Embedding):
    """nn.Embedding with Xavier-uniform initialisation and a layer norm over the looked-up rows, before positions are added.

    W ~ U(-a, a), a = sqrt(6 / (num_embeddings + embedding_dim)), the padding row 0; output = norm(W[index]), the norm in torch's default
    dtype, cast back to the dtype of W. Give its weight 32-bit state: a group with bits=32.
    """

    def __init__(self, num_embeddings, embedding_dim, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False,
                 sparse=False, _weight=None, device=None, dtype=None):
        super().__init__(num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, _weight,
                         device=device, dtype=dtype)
        self.norm = torch.nn.LayerNorm(embedding_dim, device=device)

    def reset_parameters(self):
        torch.nn.init.xavier_uniform_(self.weight)
        self._fill_padding_idx_with_zero()

    def forward(self, input):
        rows = super().forward(input)
        return self.norm(rows.to(self.norm.weight.dtype)).to(self.weight.dtype)
