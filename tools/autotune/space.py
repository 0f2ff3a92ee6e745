"""The configurations that are tried, and the parts that each get a choice of their own: (stage, head dim, causal)."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stages import STAGES
from stages.common.record import Stage
from stages.common.tiles import Tiles

ROWS = (64, 128, 256)  # Br
KEYS = tuple(range(16, 129, 16))  # Bc
WARPS = (4, 8)
BUFFERS = (2, 3, 4)
BLOCKS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Part:
    """What gets one choice."""

    stage: Stage
    headdim: int
    causal: bool

    def __str__(self) -> str:
        return f"{self.stage.short} d{self.headdim}" + (" causal" if self.causal else "")

    @property
    def key(self) -> tuple[str, int, bool]:
        """As the keys of the table that stages/common/tiles.py reads."""
        return self.stage.name, self.headdim, self.causal

    @property
    def default(self) -> Tiles:
        return default_tiles(self.stage)(self.headdim)


@dataclass(frozen=True)
class Dropped:
    """A configuration that is not measured, or may not win. by: the kind of reason, which is counted; why: one
    clause."""

    tiles: Tiles
    by: str
    why: str


def default_tiles(stage: Stage) -> Callable[[int], Tiles] | None:
    """The stage's configuration where nothing was tuned, by head dim; None: it takes no tiles."""
    if stage.capability.backend != "cuda":
        return None
    return getattr(importlib.import_module(stage.entry_module), "default_tiles", None)


def tunable() -> list[Stage]:
    """The stages that take their tiles as an argument."""
    return [stage for stage in STAGES if default_tiles(stage)]


def parts(stages: Sequence[Stage], headdims: Sequence[int] | None, causal: Sequence[bool]) -> list[Part]:
    """In the order in which they are tuned. headdims: None, all that a stage has."""
    return [
        Part(stage, headdim, mask)
        for stage in stages
        for headdim in stage.capability.headdims
        if headdims is None or headdim in headdims
        for mask in causal
    ]


def every() -> list[Tiles]:
    """All combinations, legal or not."""
    return [
        Tiles(Br, Bc, num_warps, buffers, q_in_registers, blocks)
        for Br, num_warps, q_in_registers, buffers, Bc, blocks in itertools.product(
            ROWS, WARPS, (True, False), BUFFERS, KEYS, BLOCKS
        )
    ]


def split(part: Part, arch: int) -> tuple[list[Tiles], list[Dropped]]:
    """Those that can run on compute capability `arch` (10·major + minor), and why the others cannot.

    The stage's default is among them, whether it lies on the grid or not: the others are compared with it.
    """
    legal, dropped = [], []
    for tiles in dict.fromkeys((part.default, *every())):
        obstacle = tiles.obstacle(part.headdim, arch)
        if obstacle:
            dropped.append(Dropped(tiles, *obstacle))
        else:
            legal.append(tiles)
    return legal, dropped


def number(arch: str) -> int:
    """Of NVRTC's name of an architecture: "90a" -> 90. Raises ValueError."""
    digits = arch.rstrip("af")
    if not digits.isdecimal() or int(digits) < 80 or len(arch) - len(digits) > 1:
        raise ValueError(f"arch is {arch!r}; accepted: 80 or newer, as in 80, 89, 90, 90a")
    return int(digits)
