"""The figures about the hardware, drawn from what the emulator does and not from results: they need a C++ compiler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from stages import get
from tools.emulator import banks as bank_conflicts
from tools.emulator import fragments
from tools.plot import banks, style
from tools.plot.fragments import chart as fragment_chart

STAGES = ("s20", "s21")  # without and with swizzle
LANE = 5  # the lane whose elements are framed: neither the first of its row nor of its column


def draw_banks(out: Path, made: Sequence[bank_conflicts.Picture] | None = None) -> list[Path]:
    """bank-conflicts.png and .svg; made: of which accesses (default: the loads of K in STAGES)."""
    if made is None:
        made = [bank_conflicts.picture(name, get(name), 128, "bfloat16") for name in STAGES]
    with matplotlib.rc_context(style.SETTINGS):
        return style.save(banks.chart(made), out, "bank-conflicts")


def draw_fragments(out: Path, lane: int | None = None) -> list[Path]:
    """fragments.png and .svg; lane: the one to frame."""
    loads = fragments.loaded(), fragments.loaded(transposed=True)
    with matplotlib.rc_context(style.SETTINGS):
        figure = fragment_chart(fragments.multiplied(), loads, LANE if lane is None else lane)
        return style.save(figure, out, "fragments")


def draw(out: Path) -> list[Path]:
    """Every such figure -> the paths written."""
    return draw_banks(out) + draw_fragments(out)
