"""s23 with more buffers than two: a ring of K/V tiles in shared memory, and the wait that goes with it."""

from __future__ import annotations

from stages import Stage, get
from tools.lesson.live import planted

THERE = "    __syncthreads();  // the tile is there for all; and all are done with the one before\n"


def ring(buffers: int, wait: int) -> Stage:
    """s23 with so many K/V tiles in shared memory, of which all but one are asked for ahead, and cp_async_wait<wait> at
    the top of the loop. Raises ValueError for fewer than two buffers, or a wait below 0."""
    if buffers < 2:
        raise ValueError(f"buffers is {buffers}; accepted: 2 or more")
    if not isinstance(wait, int) or wait < 0:
        raise ValueError(f"wait is {wait!r}; accepted: a number from 0 up")
    tiles = get("s23").tiles
    return planted(
        "s23",
        ("constexpr int BUFFERS = 2;", f"constexpr int BUFFERS = {buffers};"),
        ("  load_kv(0);\n", "  for (int i = 0; i < BUFFERS - 1; i++) load_kv(i);\n"),
        ("    cp_async_wait<0>();\n" + THERE, f"    cp_async_wait<{wait}>();\n" + THERE),
        ("load_kv(block + 1);", "load_kv(block + BUFFERS - 1);"),
        label=f"{buffers} buffers, wait<{wait}>",
        shared_bytes=lambda headdim: (tiles["Br"] + 2 * buffers * tiles["Bc"]) * headdim * 2,
    )
