"""PyTorch's own attention kernels, timed beside the stages in the same turns.

| peer            | what it is                                                            |
| --------------- | --------------------------------------------------------------------- |
| torch_fa2       | the official FlashAttention-2 kernels, as PyTorch ships them          |
| torch_cudnn     | cuDNN's fused attention                                               |
| torch_efficient | the memory-efficient kernels of xFormers                              |
| torch_math      | plain operations, the S×S matrix in memory                            |
| flex            | FlexAttention, compiled to Triton for each shape, causal by block mask|

They take [batch, nheads, seqlen, headdim]: transposed views of the same tensors, nothing is copied.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable

import torch

from tools.bench.shapes import Shape

SDPA_BACKENDS = {
    "torch_fa2": "FLASH_ATTENTION",
    "torch_cudnn": "CUDNN_ATTENTION",
    "torch_efficient": "EFFICIENT_ATTENTION",
    "torch_math": "MATH",
}
PEERS = (*SDPA_BACKENDS, "flex")


def build(name: str, shape: Shape, q, k, v) -> Callable[[], torch.Tensor]:
    """The call to be timed: () -> out [batch, seqlen_q, nheads, headdim]; everything that is made once is
    made here.

    Raises ValueError for a mask that the peer cannot be given.
    """
    Q, K, V = (t.transpose(1, 2) for t in (q, k, v))
    grouped = {"enable_gqa": True} if shape.nheads != shape.nheads_k else {}
    if name == "flex":
        return _flex(shape, Q, K, V, grouped)
    if shape.causal and not shape.is_square:
        raise ValueError("PyTorch aligns its causal mask top-left: for unequal lengths that is another function")
    return _sdpa(SDPA_BACKENDS[name], shape, Q, K, V, grouped)


def _sdpa(backend: str, shape: Shape, Q, K, V, grouped: dict) -> Callable[[], torch.Tensor]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    only = getattr(SDPBackend, backend)

    def call():
        with sdpa_kernel([only]):
            out = torch.nn.functional.scaled_dot_product_attention(Q, K, V, is_causal=shape.causal, **grouped)
        return out.transpose(1, 2)

    return call


def _flex(shape: Shape, Q, K, V, grouped: dict) -> Callable[[], torch.Tensor]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    # A fresh start for each shape: past a handful of shapes the compiler gives up and would run the plain
    # operations.
    torch._dynamo.reset()
    compiled = torch.compile(flex_attention, dynamic=False)
    block_mask = None
    if shape.causal:
        shift = shape.seqlen_k - shape.seqlen_q

        def visible(batch, head, i, j):
            return j <= i + shift

        block_mask = create_block_mask(visible, None, None, shape.seqlen_q, shape.seqlen_k, device=Q.device)

    def call():
        return compiled(Q, K, V, block_mask=block_mask, **grouped).transpose(1, 2)

    return call


@contextlib.contextmanager
def quiet():
    """PyTorch says in warnings why a backend refuses a call: collected, so that they can go with the
    error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def reasons(caught: list) -> str:
    """The warnings that say something of the kernel asked for, shortened."""
    texts = dict.fromkeys(" ".join(str(w.message).split("(Triggered")[0].split()) for w in caught)
    headings = (
        "not used because",
        "runtime disabled",
    )  # of the list, and of the backends that were not asked for
    return "; ".join(text for text in texts if not any(heading in text for heading in headings))[:500]
