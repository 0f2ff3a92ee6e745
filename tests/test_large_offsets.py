"""Elements more than 2³² from a tensor's first: offsets have to be 64 bits wide, in rows, in heads and in batches.

A few elements far apart: the GPU has room for all that lies between; without one, the address space is reserved and
hardly any of it is ever touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import mmap
import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from reference import judge
from reference.check import expect
from stages import STAGES
from stages.common.cuda import specialise
from tests.conftest import place_or_skip
from tools.emulator import emulate

# The axis that goes far: its elements' distance, and the shape [batch, seqlen, nheads].
# An offset that is kept in 32 bits, signed or not, then leads elsewhere; row strides themselves have to fit into 31.
FAR = {"batch": (2**31, (3, 70, 2)), "rows": (2**24, (1, 300, 1)), "heads": (2**31, (1, 70, 3))}
AXES = {"batch": 0, "rows": 1, "heads": 2}
HEADDIM = 64
TENSORS = 4  # q, k, v and out lie side by side
KERNELS = [
    pytest.param(stage, "never", axis, id=f"{stage.short}-{axis}")
    for stage in STAGES
    for axis in FAR
    if stage.capability.backend != "numpy"
] + [
    pytest.param(stage, "now", "rows", id=f"{stage.short}-rows-compiled-in")  # the strides of rows, that is
    for stage in STAGES
    if stage.capability.backend == "cuda" and stage.number >= 30
]


def elements(axis: str) -> int:
    """From the first of q to the last of out."""
    distance, shape = FAR[axis]
    size = shape[AXES[axis]]
    return (size - 1) * distance + math.prod(shape) // size * TENSORS * HEADDIM


def views(memory: torch.Tensor, axis: str) -> list[torch.Tensor]:
    """q, k, v and out, each [batch, seqlen, nheads, headdim] in `memory`, `axis` with the large stride."""
    distance, shape = FAR[axis]
    strides, next_stride = [0, 0, 0], TENSORS * HEADDIM
    for i in (2, 1, 0):
        if i == AXES[axis]:
            strides[i] = distance
        else:
            strides[i], next_stride = next_stride, next_stride * shape[i]
    return [memory.as_strided((*shape, HEADDIM), (*strides, 1), i * HEADDIM) for i in range(TENSORS)]


@contextlib.contextmanager
def reserved(count: int):
    """`count` float16 zeros of which only those take memory that are written. Skips where no such address space is."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if sys.platform == "linux":
        flags |= getattr(mmap, "MAP_NORESERVE", 0x4000)
    try:
        area = mmap.mmap(-1, 2 * count, flags=flags)
    except OSError as problem:
        pytest.skip(f"{2 * count / 2**30:.1f} GiB of address space cannot be reserved here: {problem.strerror}")
    yield torch.frombuffer(area, dtype=torch.float16)  # which keeps the area, and frees it


@contextlib.contextmanager
def on_gpu(count: int):
    """`count` float16 NaN on the GPU, for one process at a time. Skips where there is no room for them and for as many
    answers yes or no."""
    with open(Path(tempfile.gettempdir()) / f"large-offsets-{os.getuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        if free < 4 * count:
            pytest.skip(f"needs {4 * count / 2**30:.0f} GiB of GPU memory; {free / 2**30:.0f} GiB are free")
        memory = torch.full((count,), torch.nan, dtype=torch.float16, device="cuda")
        try:
            yield memory
        finally:
            memory.untyped_storage().resize_(0)  # whoever still has a view of it
            torch.cuda.empty_cache()


@pytest.mark.parametrize("stage, specialised, axis", KERNELS)
def test_offsets_past_32_bits(stage, specialised, axis):
    place = place_or_skip(stage, "float16")
    count = elements(axis)
    assert count > 2**32
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context((on_gpu if place.kind == "gpu" else reserved)(count))
        q, k, v, out = views(memory, axis)
        generator = torch.Generator().manual_seed(1)
        for t in (q, k, v):
            t.copy_(torch.randn(t.shape, generator=generator))
        out.fill_(torch.nan)
        stack.enter_context(specialise(specialised))
        stack.enter_context(emulate(races=False))  # which would take memory for all that may be written
        result, lse = stage.attention(q, k, v, causal=True, out=out)
        verdict = judge(out, lse, expect(q, k, v, causal=True))
        assert verdict.ok, f"{stage.name}, {axis}: {verdict}"
        assert result is out
        if place.kind == "gpu":
            written = count - int(memory.isnan().sum())
            assert written == TENSORS * q.numel(), "something was written between the elements"
