"""Tile by tile: whether all K/V tiles pass the function that they have to pass, and how memory grows with the length.

The grader asks it with hidden lengths. Its figure for memory is that of the whole process, this one of NumPy's arrays.
"""

import importlib
import tracemalloc

import torch

from checks.files import about
from reference import oracle
from stages import get
from tools.assignment.through import pairs, watch

CASES = ((64, 192, False), (70, 150, False), (150, 150, True))  # seqlen_q, seqlen_k, causal
HEADDIM = 32


def check(stage: str) -> bool:
    """Say what the stage's test of tiles would find -> whether it would pass."""
    good = True
    for wanted in about()["tiles"]:
        if wanted["stage"] != stage:
            continue
        title = f"Tile by tile (test {wanted['number']}{wanted['without']})"
        wrong = bypassed(stage, wanted["function"]) if wanted["function"] else ""
        if wrong:
            print(f"{title}: {wrong}.")
            good = False
            continue
        if wanted["function"]:
            print(f"{title}: every K/V tile passes {wanted['function']}, at most a tile at a time.")
        slope = grows_by(stage, wanted["lengths"], wanted["headdim"])
        fine = slope <= wanted["bytes_per_row"]
        print(
            f"{title}: memory grows by {slope:,.0f} bytes for each further row; allowed are "
            f"{wanted['bytes_per_row']:,.0f}.{'' if fine else ' Something of the size of S is held.'}"
        )
        good &= fine
    return good


def bypassed(stage: str, name: str) -> str:
    """How K and V come to the result without passing the function `name` a tile at a time, or ""."""
    record = get(stage)
    module = importlib.import_module(record.entry_module)
    function = getattr(module, name, None)
    if not callable(function):
        return f"{name} is not defined"
    for seqlen_q, seqlen_k, causal in CASES:
        q, k, v = inputs(seqlen_q, seqlen_k, HEADDIM)
        case = f"of {seqlen_q} queries and {seqlen_k} keys{', causal' if causal else ''}"
        try:
            if not _same(module.attention(q, k, v, causal=causal)[0], oracle(q, k, v, causal=causal)[0]):
                return f"the result is wrong in a case {case}, so nothing is watched yet"
            sizes = watch(module, name)
            out, _ = module.attention(q, k, v, causal=causal)
        except (Exception, SystemExit) as error:
            return f"attention raised {type(error).__name__}: {error}"
        finally:
            setattr(module, name, function)
        Br, Bc = record.tiles["Br"], record.tiles["Bc"]
        tiles = pairs(seqlen_q, seqlen_k, causal, Br, Bc)
        if not sizes:
            return f"attention does not call {name}: the rule has to be used there, not written a second time"
        if max(sizes) > Br * Bc:  # a tile of S; with this head dim, those of Q, K, V and O are smaller
            return f"{name} is called with an array of {max(sizes):,} numbers; a tile has at most {Br * Bc:,}"
        if len(sizes) < tiles:
            return f"{name} is called {len(sizes)} times in a case {case}, in which {tiles} tiles are seen"
        if not _same(out, oracle(q, k, v.abs(), causal=causal)[0]):
            return f"{name} is called, but the result is not made from what it returns"
    return ""


def _same(out, right: torch.Tensor) -> bool:
    out = torch.as_tensor(out)
    return out.shape == right.shape and torch.allclose(out.double(), right.double(), rtol=1e-4, atol=1e-5)


def grows_by(stage: str, lengths: list[int], headdim: int) -> float:
    """Bytes at the peak, for each row by which the sequence is longer."""
    peaks = []
    for length in lengths:
        q, k, v = inputs(length, length, headdim)
        tracemalloc.start()
        get(stage).attention(q, k, v)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    slope = (peaks[-1] - peaks[0]) / (lengths[-1] - lengths[0])
    return max(slope, peaks[0] / lengths[0])  # who takes much for a short one hides what a long one takes


def inputs(seqlen_q: int, seqlen_k: int, headdim: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, n, 1, headdim, generator=generator) for n in (seqlen_q, seqlen_k, seqlen_k)]
