"""What is timed: problem shapes, the two grids, and how many FLOPs a shape takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

# The grid of the FlashAttention papers: the number of tokens and the model's width stay the same, so
# lengths compare.
TOKENS = 16384  # batch × seqlen
WIDTH = 2048  # nheads × headdim
SEQLENS = (512, 1024, 2048, 4096, 8192, 16384)
HEADDIMS = (64, 128)
QUICK_SEQLENS = (1024, 4096)
QUICK_HEADDIMS = (128,)

# NumPy takes seconds where a GPU takes microseconds: a grid of its own, one sequence, float32.
NUMPY_SEQLENS = (128, 256, 512, 1024, 2048, 4096)
NUMPY_QUICK_SEQLENS = (256, 512, 1024)
NUMPY_HEADDIM = 64
NUMPY_NHEADS = 2


@dataclass(frozen=True)
class Shape:
    """One problem: q [batch, seqlen_q, nheads, headdim]; k, v [batch, seqlen_k, nheads_k, headdim].

    Raises ValueError for sizes below 1, or nheads that is no multiple of nheads_k.
    """

    batch: int
    seqlen_q: int
    seqlen_k: int
    nheads: int
    nheads_k: int
    headdim: int
    causal: bool

    def __post_init__(self) -> None:
        for name, size in asdict(self).items():
            if name != "causal" and size < 1:
                raise ValueError(f"{name} is {size}; accepted: 1 or more")
        if self.nheads % self.nheads_k:
            raise ValueError(f"nheads is {self.nheads}; accepted: a multiple of nheads_k, {self.nheads_k}")

    def __str__(self) -> str:
        lengths = f"{self.seqlen_q}" if self.is_square else f"{self.seqlen_q}×{self.seqlen_k}"
        heads = f"{self.nheads}" if self.nheads == self.nheads_k else f"{self.nheads}/{self.nheads_k}"
        mask = "causal" if self.causal else "full"
        return f"seqlen {lengths}, batch {self.batch}, heads {heads}, d{self.headdim}, {mask}"

    @property
    def short(self) -> str:
        return f"{self.seqlen_q} d{self.headdim}" + (" causal" if self.causal else "")

    @property
    def is_square(self) -> bool:
        return self.seqlen_q == self.seqlen_k

    @property
    def flops(self) -> float:
        """4 · seqlen² · headdim · nheads · batch, halved when causal: the two matrix products, by the
        papers' convention.

        Unequal lengths count the scores that the bottom-right mask leaves, by the same convention.
        """
        if not self.causal:
            scores = self.seqlen_q * self.seqlen_k
        elif self.seqlen_k >= self.seqlen_q:
            scores = self.seqlen_q * (self.seqlen_k - self.seqlen_q) + self.seqlen_q**2 / 2
        else:  # the first seqlen_q - seqlen_k rows see no key
            scores = self.seqlen_k**2 / 2
        return 4.0 * scores * self.headdim * self.nheads * self.batch

    @classmethod
    def of(cls, record: dict) -> Shape:
        """The shape of a results file's record."""
        return cls(**{name: record[name] for name in cls.__dataclass_fields__})

    @classmethod
    def parse(cls, text: str) -> Shape:
        """ "b,sq,sk,h,hk,d,causal" -> the shape. Raises ValueError that says what is wrong."""
        parts = [part.strip() for part in text.split(",")]
        if len(parts) != 7:
            raise ValueError(f"{text!r} has {len(parts)} fields; accepted: 7, b,sq,sk,h,hk,d,causal")
        names = ("batch", "seqlen_q", "seqlen_k", "nheads", "nheads_k", "headdim")
        sizes = {}
        for name, part in zip(names, parts, strict=False):
            if not part.isdecimal():
                raise ValueError(f"{name} is {part!r} in {text!r}; accepted: a whole number, 1 or more")
            sizes[name] = int(part)
        masks = {"yes": True, "1": True, "true": True, "causal": True}
        masks |= {"no": False, "0": False, "false": False, "full": False}
        if parts[6].lower() not in masks:
            raise ValueError(f"causal is {parts[6]!r} in {text!r}; accepted: yes or no")
        try:
            return cls(**sizes, causal=masks[parts[6].lower()])
        except ValueError as problem:
            raise ValueError(f"{problem} (in {text!r})") from None


def grid_shape(seqlen: int, headdim: int, causal: bool) -> Shape:
    """One shape of the GPU grid: TOKENS tokens in all, WIDTH wide; at least one sequence and one head."""
    batch, nheads = max(1, TOKENS // seqlen), max(1, WIDTH // headdim)
    return Shape(batch, seqlen, seqlen, nheads, nheads, headdim, causal)


def numpy_shape(seqlen: int, headdim: int, causal: bool) -> Shape:
    """One shape of the NumPy grid."""
    return Shape(1, seqlen, seqlen, NUMPY_NHEADS, NUMPY_NHEADS, headdim, causal)


def gpu_grid(
    seqlens: Sequence[int] = SEQLENS,
    headdims: Sequence[int] = HEADDIMS,
    causal: Sequence[bool] = (False, True),
) -> list[Shape]:
    return [grid_shape(s, d, c) for d in headdims for c in causal for s in seqlens]


def numpy_grid(
    seqlens: Sequence[int] = NUMPY_SEQLENS,
    headdims: Sequence[int] = (NUMPY_HEADDIM,),
    causal: Sequence[bool] = (False,),
) -> list[Shape]:
    return [numpy_shape(s, d, c) for d in headdims for c in causal for s in seqlens]


def on_grid(record: dict) -> bool:
    """Whether a record belongs to one of the two grids, which are what plots and documents quote."""
    shape = Shape.of(record)
    make = numpy_shape if record.get("where") == "host" else grid_shape
    return shape == make(shape.seqlen_q, shape.headdim, shape.causal)


def harmonic_mean(values: Sequence[float]) -> float:
    """The mean for ratios of rates: n / Σ 1/x. Raises ValueError for no values, or one that is not above
    0."""
    values = list(values)
    if not values or not all(math.isfinite(x) and x > 0 for x in values):
        raise ValueError(f"values are {values}; accepted: at least one, all finite and above 0")
    return len(values) / sum(1 / x for x in values)
