"""Attention of rows of unequal length side by side, on CUDA."""

import torch
from torch import Tensor


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, q_starts: Tensor, k_starts: Tensor, longest_q: int,
                     longest_k: int, window: int | None) -> Tensor:
    """Causal attention of q [tokens, H, D] and k, v [tokens, KV, D], each row to itself; returns [tokens, H, D].

    Row n is q_starts[n] to q_starts[n + 1] (int32), and its last query stands beside its last key.
    """
    # The operator behind torch.nn.attention.varlen.varlen_attn, whose arguments differ between versions.
    return torch.ops.aten._flash_attention_forward(
        q, k, v, q_starts, k_starts, longest_q, longest_k, 0.0, True, False,
        window_size_left=-1 if window is None else window - 1, window_size_right=0)[0]
