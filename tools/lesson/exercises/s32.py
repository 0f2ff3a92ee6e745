"""Exercises of notebooks/s32_schedule."""

from __future__ import annotations

import heapq

from tools.lesson.answers import exercise

# ---- when the last one ends -----------------------------------------------------------------------------------------


def finish(work, slots):
    """Each block, in its turn, goes to the slot that is free first."""
    free = [0] * slots
    for one in work:
        heapq.heappush(free, heapq.heappop(free) + one)
    return max(free)


def _in_turns(work, slots):
    """Every slot gets each slots-th block, whoever is free."""
    return max(sum(work[slot::slots]) for slot in range(slots))


def _in_waves(work, slots):
    """The next wave starts when all of this one have ended."""
    return sum(max(work[i : i + slots]) for i in range(0, len(work), slots))


def _sorted_first(work, slots):
    return finish(sorted(work, reverse=True), slots)


@exercise(
    "s32.finish",
    solution=finish,
    wrong=(_in_turns, _in_waves, _sorted_first, lambda work, slots: sum(work) / slots),
    hints=(
        "Keep a list with the time at which each slot is free; at first all are 0.",
        "For each block in its order: take the slot with the smallest time, and add the block's work to it. "
        "The answer is the largest time at the end.",
    ),
)
def check_finish(answer) -> str:
    for work, slots in (
        ([1, 2, 3, 4] * 3, 4),
        ([4, 3, 2, 1, 4, 3], 3),
        ([5], 3),
        ([2, 2, 2, 2, 9], 2),
        ([3, 1, 1, 1], 2),
    ):
        want, got = finish(work, slots), answer(list(work), slots)
        if got != want:
            return f"work {work} on {slots} slots ends at {want}, not at {got}"
    return ""


# ---- which block is which -------------------------------------------------------------------------------------------


def block(x, y, z, grid, causal):
    """Heads on the fastest axis; causal: the tiles on the slowest, from the last; otherwise the batch."""
    if causal:
        return grid[2] - 1 - z, x, y
    return y, x, z


def _as_s31(x, y, z, grid, causal):
    return x, y, z


def _not_turned(x, y, z, grid, causal):
    return (z, x, y) if causal else (y, x, z)


def _one_off(x, y, z, grid, causal):
    return (grid[2] - z, x, y) if causal else (y, x, z)


def _head_by_head(x, y, z, grid, causal):
    return (grid[2] - 1 - z, y, x) if causal else (y, x, z)


def _one_order(x, y, z, grid, causal):
    return grid[2] - 1 - z, x, y


BATCH, NHEADS, Q_TILES = 2, 4, 5


@exercise(
    "s32.block",
    solution=block,
    wrong=(_as_s31, _not_turned, _one_off, _head_by_head, _one_order),
    hints=(
        "x runs fastest, and neighbours are to read the same K and V. What goes on x in both cases?",
        "Causal: the heaviest tiles of all heads and batches first, so the tile is on the slowest axis, z, and z = 0 "
        "is the last tile. Not causal: one batch after the other, so the batch is on z.",
        "Causal: grid = (nheads, batch, q_tiles), tile grid[2] - 1 - z. Not causal: grid = (nheads, q_tiles, batch).",
    ),
)
def check_block(answer) -> str:
    for causal in (True, False):
        grid = (NHEADS, BATCH, Q_TILES) if causal else (NHEADS, Q_TILES, BATCH)
        order = [(x, y, z) for z in range(grid[2]) for y in range(grid[1]) for x in range(grid[0])]
        got = [tuple(answer(*place, grid, causal)) for place in order]
        name = "causal" if causal else "not causal"
        every = {(t, h, b) for t in range(Q_TILES) for h in range(NHEADS) for b in range(BATCH)}
        if set(got) != every:
            return f"{name}: not every (tile, head, batch) is done once; the first block does {got[0]}"
        want = [block(*place, grid, causal) for place in order]
        for place, mine, theirs in zip(order, got, want, strict=True):
            if mine != theirs:
                return f"{name}: block {place} of grid {grid} should do (tile, head, batch) {theirs}, not {mine}"
    return ""
