"""Tensors as bytes and a record of their layout: how a student's process is given inputs and gives results back.

Nothing is unpickled: what a hostile process writes is bytes of a size known beforehand, or text.
"""

from __future__ import annotations

import torch


def describe(t: torch.Tensor, blob: bytearray) -> dict:
    """Append the bytes that `t` extends over to `blob` -> where they are and how they are laid out."""
    size = sum((n - 1) * stride for n, stride in zip(t.shape, t.stride())) + 1 if t.numel() else 0
    flat = torch.as_strided(t, (size,), (1,))
    at = len(blob)
    blob += bytes(flat.contiguous().view(torch.uint8).numpy().tobytes()) if size else b""
    blob += bytes(-len(blob) % 64)
    return {
        "dtype": str(t.dtype).removeprefix("torch."),
        "shape": list(t.shape),
        "stride": list(t.stride()),
        "at": at,
        "bytes": size * t.element_size(),
    }


def restore(record: dict, blob) -> torch.Tensor:
    """A tensor of its own, laid out as the one that was described."""
    dtype = getattr(torch, record["dtype"])
    piece = bytearray(blob[record["at"] : record["at"] + record["bytes"]])
    flat = torch.frombuffer(piece, dtype=dtype) if piece else torch.empty(0, dtype=dtype)
    return torch.as_strided(flat, tuple(record["shape"]), tuple(record["stride"]))
