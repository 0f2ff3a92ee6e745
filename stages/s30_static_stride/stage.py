"""s30_static_stride: the host side. The kernel is in kernel.cu."""

from stages.common.contract import prepare
from stages.common.cuda import launch, static_strides
from stages.s30_static_stride import STAGE

Br, Bc, BUFFERS = STAGE.tiles["Br"], STAGE.tiles["Bc"], STAGE.tiles["buffers"]


def shared_bytes(headdim: int) -> int:
    """A block's dynamic shared memory: a tile of Q, BUFFERS tiles each of K and V, 2 bytes an element."""
    return (Br + 2 * BUFFERS * Bc) * headdim * 2


def attention(q, k, v, *, causal=False, softmax_scale=None, out=None, lse=None):
    """The stage contract (stages/common/contract.py). A block for every Q tile of every batch and head."""
    call = prepare(STAGE, q, k, v, causal=causal, softmax_scale=softmax_scale, out=out, lse=lse, aligned=True)
    q_tiles = -(-call.seqlen_q // Br)
    launch(
        STAGE,
        call,
        grid=(q_tiles, call.nheads, call.batch),
        threads=32 * STAGE.tiles["num_warps"],
        shared_bytes=shared_bytes(call.headdim),
        special=static_strides(call),
    )
    return call.finish()
