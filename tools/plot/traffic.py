"""Bytes that an attention kernel moves between global memory and the chip, counted in closed form.

For one (batch, head), with N queries, M keys, head dim d, e bytes an element, and tiles of Br queries and
Bc keys. Let T be the number of (Q tile, K/V tile) pairs computed: ⌈N/Br⌉·⌈M/Bc⌉, and when causal those that
the mask does not skip, about half. Statistics and O's accumulator are float32.

| order              | bytes                                                                             |
| ------------------ | --------------------------------------------------------------------------------- |
| once               | (2·N + 2·M)·d·e + 4·N          Q, K, V read, O and LSE written, each once          |
| v1, K/V outside    | once - N·d·e + T·Br·(d·e + 8·d + 16) + 8·N·(d + 2)                                 |
| v2, Q outside      | (2·N·d)·e + 4·N + T·Bc·2·d·e                                                      |
| plain              | once + 4·N·M·e                 S written and read, P written and read              |

v1 (Dao et al. 2022, algorithm 1): at every visit a Q tile is read (d·e a row), its O read and written
(8·d), its m and l read and written (16); before, O, m and l are zeroed, after, they are read once more
(together 8·N·(d + 2)). v2 (Dao 2023, algorithm 1): K and V are read again by every Q tile.

These are what the kernels ask for. The L2 serves v2's re-reads, as the Q tiles of a head run at the same
time and want the same keys: from the memory itself little more than `once` is moved. It does not serve
v1's, whose every program walks through rows of its own.
"""

from __future__ import annotations

import math

from stages import get
from tools.bench.shapes import Shape

ELEMENT = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
PLAIN = ("s01_naive", "torch_math")
V1 = ("s11_triton_v1",)
V2 = (
    "s12_triton_v2",
    "s20_mma",
)  # those whose tiles are fixed: what autotuning picked, a record does not say


def tile_pairs(shape: Shape, Br: int, Bc: int) -> int:
    """T: how many (Q tile, K/V tile) pairs of one (batch, head) are computed."""
    pairs = 0
    for i in range(0, shape.seqlen_q, Br):
        last_row = min(i + Br, shape.seqlen_q) - 1
        keys = shape.seqlen_k
        if shape.causal:
            keys = min(keys, last_row + 1 + shape.seqlen_k - shape.seqlen_q)
        pairs += max(0, math.ceil(keys / Bc))
    return pairs


def once_bytes(shape: Shape, e: int) -> int:
    """Q, K, V read and O, LSE written, each once: no kernel moves less."""
    queries = shape.batch * shape.nheads * shape.seqlen_q
    keys = shape.batch * shape.nheads_k * shape.seqlen_k
    return 2 * (queries + keys) * shape.headdim * e + 4 * queries


def v1_bytes(shape: Shape, e: int, Br: int, Bc: int) -> int:
    """FlashAttention-1's order, as in the table above."""
    d, heads = shape.headdim, shape.batch * shape.nheads
    keys = 2 * shape.seqlen_k * d * e
    visits = tile_pairs(shape, Br, Bc) * Br * (d * e + 8 * d + 16)
    ends = 8 * shape.seqlen_q * (d + 2) + shape.seqlen_q * d * e + 4 * shape.seqlen_q
    return heads * (keys + visits + ends)


def v2_bytes(shape: Shape, e: int, Br: int, Bc: int) -> int:
    """FlashAttention-2's order, as in the table above."""
    d, heads = shape.headdim, shape.batch * shape.nheads
    queries = 2 * shape.seqlen_q * d * e + 4 * shape.seqlen_q
    return heads * (queries + tile_pairs(shape, Br, Bc) * Bc * 2 * d * e)


def plain_bytes(shape: Shape, e: int) -> int:
    """Plain operations, at least: S and P of S×S elements, each written and read."""
    return once_bytes(shape, e) + 4 * shape.batch * shape.nheads * shape.seqlen_q * shape.seqlen_k * e


def asked_bytes(record: dict) -> int | None:
    """What the kernel of a record asks global memory for; None for a kernel that is not counted."""
    name, shape, e = record["name"], Shape.of(record), ELEMENT[record["dtype"]]
    if name in PLAIN:
        return plain_bytes(shape, e)
    if name not in V1 + V2:
        return None
    rows = get(name).tile_rows(shape.headdim, e)
    return (v1_bytes if name in V1 else v2_bytes)(shape, e, rows, rows)


def memory_bytes(record: dict) -> int:
    """What has to come from the memory itself: the L2 serves re-reads that programs make at the same time."""
    if record["name"] in PLAIN + V1:
        return asked_bytes(record)
    return once_bytes(Shape.of(record), ELEMENT[record["dtype"]])


def programs(record: dict) -> int | None:
    """Programs (thread blocks) launched: batch × heads by v1, times the number of Q tiles by v2; or None."""
    name, shape, e = record["name"], Shape.of(record), ELEMENT[record["dtype"]]
    if name not in V1 + V2:
        return None
    tiles = 1 if name in V1 else math.ceil(shape.seqlen_q / get(name).tile_rows(shape.headdim, e))
    return shape.batch * shape.nheads * tiles
