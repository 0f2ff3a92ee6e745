"""What a submission's speed is compared with: PyTorch's own attention, called as a stage is, in the same process."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

# FlashAttention-2 as PyTorch has it; where the GPU is too old for that, its memory-efficient kernel. Not cuDNN's, which
# is of another class on Hopper and does not run everywhere.
BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


def attention(q, k, v, *, causal, softmax_scale, out, lse):
    """(B, N, H, d) each. `out` and `lse` are left alone: only its time counts."""
    with sdpa_kernel(BACKENDS):
        torch.nn.functional.scaled_dot_product_attention(
            *(t.transpose(1, 2) for t in (q, k, v)), is_causal=causal, scale=softmax_scale
        )
    return out, lse
