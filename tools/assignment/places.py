"""Where a CUDA kernel's `tile_offset` sends the chunks of a tile: a probe asks it for all of them.

Two chunks in one place, or a tile that reaches into the next, show in a kernel as races between threads. They are none:
no barrier would help. So this is looked at before threads are blamed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

ASKED = re.compile(r"^template <int d>\s+DEVICE u32 tile_offset\(u32 row, u32 chunk\)", re.M)
PROBE = """
template <int d>
__global__ void places_of_chunks(u32* places) {
  for (u32 i = threadIdx.x; i < ROWS * (d / 8); i += 32) places[i] = tile_offset<d>(i / (d / 8), i % (d / 8));
}
"""


def probed(source: str, rows: int) -> str:
    """The kernel's text with the probe after it."""
    return source + PROBE.replace("ROWS", str(rows))


def problem(places: Sequence[int], rows: int, d: int) -> str:
    """What is wrong with the places, in bytes, of chunks [rows][d / 8], or ""."""
    chunks, owner = d // 8, {}
    for i, place in enumerate(map(int, places)):
        chunk = f"chunk {i % chunks} of row {i // chunks}"
        if place % 16:
            return f"head dim {d}: {chunk} would begin at byte {place}, and a place begins at a multiple of 16"
        if place + 16 > rows * d * 2:
            return f"head dim {d}: {chunk} would lie at byte {place}, past the end of its tile of {rows * d * 2} bytes"
        if place in owner:
            return f"head dim {d}: {chunk} and {owner[place]} have the same place, byte {place}"
        owner[place] = chunk
    return ""
