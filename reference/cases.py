"""The cases every stage is checked on: dtype × head dim × lengths × causal × heads × input family.

`full_grid` is the product, for a machine that can afford it; `quick_grid` covers every pair of values of any two axes.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from dataclasses import dataclass

import torch

from reference.inputs import RANDOM_FAMILIES, captured_shape, make_inputs
from stages.common.record import Stage


@dataclass(frozen=True)
class Case:
    """One call of a stage. softmax_scale None means the default; layout is how q, k and v lie in memory:
    "contiguous", "transposed" ([batch, nheads, seqlen, headdim] storage), "sliced" (every other head of a wider one).
    """

    dtype: str = "float32"
    headdim: int = 64
    seqlen_q: int = 128
    seqlen_k: int = 128
    causal: bool = False
    batch: int = 1
    nheads: int = 2
    nheads_k: int = 2
    family: str = "normal"
    softmax_scale: float | None = None
    layout: str = "contiguous"
    seed: int = 0

    def __str__(self) -> str:
        parts = [
            self.dtype,
            f"d{self.headdim}",
            f"{self.seqlen_q}x{self.seqlen_k}",
            "causal" if self.causal else "full",
            f"h{self.nheads}/{self.nheads_k}",
            self.family,
        ]
        if self.batch != 1:
            parts.append(f"b{self.batch}")
        if self.softmax_scale is not None:
            parts.append(f"scale{self.softmax_scale:g}")
        if self.layout != "contiguous":
            parts.append(self.layout)
        return "-".join(parts)

    def inputs(self, device="cpu") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k, v of this case in its dtype and layout."""
        q, k, v = make_inputs(
            self.family,
            batch=self.batch,
            seqlen_q=self.seqlen_q,
            seqlen_k=self.seqlen_k,
            nheads=self.nheads,
            nheads_k=self.nheads_k,
            headdim=self.headdim,
            seed=self.seed,
        )
        return tuple(_lay_out(t.to(device, getattr(torch, self.dtype)), self.layout) for t in (q, k, v))


def _lay_out(t: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "contiguous":
        return t
    if layout == "transposed":
        return t.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "sliced":
        wide = torch.full((*t.shape[:2], 2 * t.shape[2], t.shape[3]), torch.nan, dtype=t.dtype, device=t.device)
        wide[:, :, ::2] = t
        return wide[:, :, ::2]
    raise ValueError(f"layout is {layout!r}; accepted: contiguous, transposed, sliced")


# Tiles are 16 to 128 rows, so these are shorter than, equal to, one off and several of them; and unequal both ways.
# 127 × 128: only the last row of a tile sees the next tile's first key. 130 × 128: only its first row misses a tile's
# last key.
LENGTHS = (
    (1, 1),
    (1, 130),
    (33, 1),
    (17, 64),
    (64, 64),
    (127, 128),
    (130, 128),
    (128, 128),
    (113, 203),
    (203, 113),
    (129, 257),
)
LONG_LENGTHS = ((512, 512), (1000, 1000), (1, 4099), (2048, 300))
HEADDIMS = (1, 16, 40, 64, 80, 128, 200, 256)
HEADS = ((1, 2, 2), (2, 1, 1), (1, 4, 2), (1, 6, 1))  # batch, nheads, nheads_k
LAYOUTS = ("contiguous", "transposed", "sliced")
SCALES = (None, 0.3)


def _axes(stage: Stage, lengths) -> dict[str, tuple]:
    largest = stage.capability.max_headdim
    return {
        "dtype": stage.capability.dtypes,
        "headdim": tuple(d for d in HEADDIMS if largest is None or d <= largest),
        "lengths": lengths,
        "causal": (False, True),
        "heads": HEADS,
        "family": RANDOM_FAMILIES,
        "layout": LAYOUTS,
        "softmax_scale": SCALES,
    }


def _case(lengths, heads, **fields) -> Case:
    (seqlen_q, seqlen_k), (batch, nheads, nheads_k) = lengths, heads
    return Case(seqlen_q=seqlen_q, seqlen_k=seqlen_k, batch=batch, nheads=nheads, nheads_k=nheads_k, **fields)


def _real(stage: Stage) -> list[Case]:
    """The captured activations: whole, and a window that is neither square nor a multiple of a tile."""
    seqlen, nheads, headdim = captured_shape()
    whole = Case(seqlen_q=seqlen, seqlen_k=seqlen, nheads=3, nheads_k=3, headdim=headdim, family="activations")
    window = dataclasses.replace(whole, seqlen_q=77, seqlen_k=150, nheads=4, nheads_k=2, causal=True, batch=2)
    return [dataclasses.replace(case, dtype=dtype) for dtype in stage.capability.dtypes for case in (whole, window)]


def _growing(stage: Stage) -> list[Case]:
    """Maxima that grow in every tile, for five tiles of 64 keys; and a batch whose stride is not that of its rows."""
    case = Case(seqlen_q=40, seqlen_k=260, batch=2, nheads=4, family="ramp", layout="transposed")
    return [dataclasses.replace(case, dtype=dtype) for dtype in stage.capability.dtypes]


def _balanced(axes: dict[str, tuple]):
    """The product of lengths, head dim and mask; other axes take the value that this row's have met least so far."""
    product = ("lengths", "headdim", "causal")
    met = collections.Counter()
    for values in itertools.product(*(axes[name] for name in product)):
        row = dict(zip(product, values))
        for name in [name for name in axes if name not in product]:
            row[name] = min(axes[name], key=lambda value: sum(met[n, row[n], name, value] for n in row))  # noqa: B023
        met.update((a, row[a], b, row[b]) for a, b in itertools.permutations(row, 2))
        yield row


@functools.cache
def quick_grid(stage: Stage) -> tuple[Case, ...]:
    """Up to two hundred cases, always the same: every pair of values of two axes, growing maxima, real activations."""
    return (*(_case(**row) for row in _balanced(_axes(stage, LENGTHS))), *_growing(stage), *_real(stage))


@functools.cache
def full_grid(stage: Stage) -> tuple[Case, ...]:
    """The product of all axes but three, which go round: input family, layout and scale meet the others in turn."""
    axes = _axes(stage, (*LENGTHS, *LONG_LENGTHS))
    turning = ("family", "layout", "softmax_scale")
    product = itertools.product(*(values for name, values in axes.items() if name not in turning))
    names = [name for name in axes if name not in turning]
    # 6 families, 3 layouts and 2 scales would step in time with each other, and with the axes' lengths: 7 and 5 do not.
    cases = [
        _case(
            **dict(zip(names, row)),
            family=RANDOM_FAMILIES[i * 7 // 6 % 6],
            layout=LAYOUTS[i * 5 // 7 % 3],
            softmax_scale=SCALES[i // 11 % 2],
        )
        for i, row in enumerate(product)
    ]
    return (*cases, *_growing(stage), *_real(stage))
