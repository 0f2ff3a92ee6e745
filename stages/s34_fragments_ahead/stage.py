"""s34_fragments_ahead: the host side. The kernel is in kernel.cu, its tiles come from stages/common/tiles.py."""

import functools

from stages.common.contract import prepare
from stages.common.cuda import launch, static_strides
from stages.common.tiles import Tiles, chosen
from stages.s34_fragments_ahead import STAGE


@functools.cache
def default_tiles(headdim: int) -> Tiles:
    """DefaultTiles of kernel.cu: what every sm_80 GPU can launch without spilling registers."""
    tiles = STAGE.tiles
    rows = STAGE.tile_rows(headdim, itemsize=2)
    return Tiles(rows, tiles["Bc"], tiles["num_warps"], tiles["buffers"], q_in_registers=True, blocks=2)


def shared_bytes(headdim: int) -> int:
    """A block's dynamic shared memory with the default tiles."""
    return default_tiles(headdim).shared_bytes(headdim)


def attention(q, k, v, *, causal=False, softmax_scale=None, out=None, lse=None):
    """The stage contract (stages/common/contract.py). A block for every Q tile of every batch and head."""
    call = prepare(STAGE, q, k, v, causal=causal, softmax_scale=softmax_scale, out=out, lse=lse, aligned=True)
    tiles = chosen(STAGE, call, default_tiles(call.headdim))
    q_tiles = -(-call.seqlen_q // tiles.Br)
    strides = static_strides(call)
    launch(
        STAGE,
        call,
        # Causal: the heaviest tiles of all batches first. Otherwise batch by batch, for the L2 cache may hold K and V.
        grid=(call.nheads, call.batch, q_tiles) if call.causal else (call.nheads, q_tiles, call.batch),
        threads=tiles.threads,
        shared_bytes=tiles.shared_bytes(call.headdim),
        arguments=("0", "0", tiles.argument),
        special=(*strides, tiles.argument) if strides else None,
    )
    return call.finish()
