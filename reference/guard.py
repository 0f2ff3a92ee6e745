"""Outputs that notice what is done to them: filled with NaN inside, a guard band outside.

An element that a kernel leaves unwritten stays NaN, which never passes; a write past the end changes the band.
"""

from __future__ import annotations

import torch

GUARD = 256  # elements before and after; even, and a multiple of 16 bytes for every dtype, so alignment is kept

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Guarded:
    """A tensor of `shape` inside a larger buffer, both filled with NaN.

    .view: [shape], contiguous, to be handed to a kernel.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device):
        size = torch.Size(shape).numel()
        self._buffer = torch.full((size + 2 * GUARD,), torch.nan, dtype=dtype, device=device)
        self.view = self._buffer[GUARD : GUARD + size].view(shape)
        bits = self._buffer.view(_BITS[dtype.itemsize])
        self._bands = (bits[:GUARD], bits[GUARD + size :])
        self._pattern = bits[0].clone()

    def intact(self) -> bool:
        """Whether nothing was written outside the view."""
        return all(bool((band == self._pattern).all()) for band in self._bands)
