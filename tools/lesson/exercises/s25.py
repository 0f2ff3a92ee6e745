"""Exercises of notebooks/s25_causal_tiles."""

from __future__ import annotations

import numpy as np

from tools.lesson.answers import exercise


def tile_bounds(first_row, Br, Bc, seqlen_q, seqlen_k, causal):
    """(blocks, full_blocks): of the K/V tiles, how many the Q tile from first_row on walks, and how many of these, from
    the first, need no mask."""
    shift = seqlen_k - seqlen_q
    last_key = min(seqlen_k, first_row + Br + shift) if causal else seqlen_k
    every_row_sees = first_row + 1 + shift if causal else seqlen_k
    return max(0, -(-last_key // Bc)), max(0, every_row_sees) // Bc


def _no_shift(first_row, Br, Bc, seqlen_q, seqlen_k, causal):
    return tile_bounds(first_row, Br, Bc, seqlen_k, seqlen_k, causal)


def _full_by_the_last_row(first_row, Br, Bc, seqlen_q, seqlen_k, causal):
    blocks, _ = tile_bounds(first_row, Br, Bc, seqlen_q, seqlen_k, causal)
    shift = seqlen_k - seqlen_q
    return blocks, max(0, min(seqlen_k, first_row + Br + shift) if causal else seqlen_k) // Bc


def _full_rounded_up(first_row, Br, Bc, seqlen_q, seqlen_k, causal):
    blocks, _ = tile_bounds(first_row, Br, Bc, seqlen_q, seqlen_k, causal)
    return blocks, max(0, -(-(first_row + 1 + seqlen_k - seqlen_q if causal else seqlen_k) // Bc))


def _ragged_is_full(first_row, Br, Bc, seqlen_q, seqlen_k, causal):
    blocks, full = tile_bounds(first_row, Br, Bc, seqlen_q, seqlen_k, causal)
    return blocks, full if causal else blocks


def _walks_all(first_row, Br, Bc, seqlen_q, seqlen_k, causal):
    return -(-seqlen_k // Bc), tile_bounds(first_row, Br, Bc, seqlen_q, seqlen_k, causal)[1]


def _negative(first_row, Br, Bc, seqlen_q, seqlen_k, causal):
    shift = seqlen_k - seqlen_q
    last_key = min(seqlen_k, first_row + Br + shift) if causal else seqlen_k
    return -(-last_key // Bc), (first_row + 1 + shift if causal else seqlen_k) // Bc


@exercise(
    "s25.bounds",
    solution=tile_bounds,
    wrong=(_no_shift, _full_by_the_last_row, _full_rounded_up, _ragged_is_full, _walks_all, _negative),
    hints=(
        "Row i sees the keys 0 to i + shift, shift = seqlen_k - seqlen_q. Which row sees most, which least?",
        "Walked: up to the last key that the last row, first_row + Br - 1, sees, at most seqlen_k; round up. "
        "Full: every row sees what the first row sees, first_row + 1 + shift keys; round down.",
        "With more queries than keys, shift is negative and so may both numbers be before rounding: max(0, ...).",
    ),
)
def check_bounds(answer) -> str:
    for seqlen_q, seqlen_k in ((256, 256), (113, 203), (203, 113), (64, 130), (300, 100), (1, 77)):
        for Br, Bc in ((64, 64), (128, 64), (64, 32)):
            for causal in (False, True):
                i, j = np.arange(seqlen_q)[:, None], np.arange(seqlen_k)
                visible = (j <= i + seqlen_k - seqlen_q) | (not causal)
                for first_row in range(0, seqlen_q, Br):
                    rows = visible[first_row : first_row + Br]
                    tiles = [rows[:, key : key + Bc] for key in range(0, seqlen_k, Bc)]
                    want = (
                        sum(bool(tile.any()) for tile in tiles),
                        sum(bool(tile.all()) and tile.shape[1] == Bc for tile in tiles),
                    )
                    got = tuple(map(int, answer(first_row, Br, Bc, seqlen_q, seqlen_k, causal)))
                    if got != want:
                        where = f"{seqlen_q} queries, {seqlen_k} keys, tiles of {Br} × {Bc}, causal={causal}"
                        return f"{where}: the Q tile from row {first_row} walks {want[0]} K/V tiles, of which " + (
                            f"{want[1]} are full; you say {got[0]} and {got[1]}"
                        )
    return ""
