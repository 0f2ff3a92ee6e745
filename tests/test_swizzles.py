"""What the lesson on swizzling draws and tries: layouts of a tile, on paper and in s20's kernel."""

from __future__ import annotations

import numpy as np
import pytest

from stages import get
from tools.emulator import missing
from tools.lesson import live
from tools.lesson.exercises.s21 import run_pass, wavefronts
from tools.lesson.swizzles import ONE_TILE, bytes_of, padded, try_layouts, with_swizzle
from tools.pictures import bank_lines
from tools.pictures.bank_conflicts import identity, xor

needs_compiler = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def quarter(row, chunk):
    return chunk ^ row % 4


LAYOUTS = {"plain": identity, "xor": xor, "rotated": bank_lines.rotate, "quarter": quarter}


def rows_of(shown) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in shown.text.splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


@needs_compiler
@pytest.mark.parametrize("headdim", (64, 128))
def test_what_is_drawn_is_what_the_kernel_meets(headdim):
    tried = rows_of(try_layouts(headdim, **LAYOUTS, padded=padded()))
    drawn = LAYOUTS | {"padded": (identity, headdim // 8 + 1)}
    for name, layout in drawn.items():
        held = bank_lines.lines(layout, headdim)
        ways = max(bank_lines.wanted(held, chunk).max() for chunk in range(headdim // 8))
        assert tried[name][:2] == ["right", str(ways)], name
    assert [tried[name][1] for name in ("plain", "xor", "rotated", "quarter", "padded")] == ["8", "1", "1", "2", "1"]


@needs_compiler
def test_a_swizzle_in_a_table_counts_as_the_stage_that_has_it_in_code():
    fields = {"headdim": 128} | ONE_TILE
    mine, own = (live.emulated(stage, **fields).report.as_profiled() for stage in (with_swizzle(xor), "s21"))
    assert mine == own


@needs_compiler
def test_layouts_that_are_none_say_so():
    def stub(row, chunk): ...

    tried = rows_of(try_layouts(64, lost=lambda row, chunk: 0, outside=lambda row, chunk: chunk ^ row, stub=stub))
    assert "chunks 0 and 1 of row 0 in the same place" in tried["lost"][0]
    assert "row 8 in place 8 to 15 of 8" in tried["outside"][0]
    assert tried["stub"][0] == "no answer yet"


@needs_compiler
def test_padding_needs_its_bytes():
    assert bytes_of(get("s21"), 128) == 3 * 64 * 256
    assert bytes_of(padded(), 128) == 3 * 64 * (256 + 16)
    row = "(d * 2 + 16)"
    changes = (
        ("return row * (d * 2) + chunk * 16;", f"return row * {row} + chunk * 16;"),
        ("Q_smem + Br * d * 2;", f"Q_smem + Br * {row};"),
        ("K_smem + Bc * d * 2;", f"K_smem + Bc * {row};"),
    )
    short = live.planted("s20", *changes)
    assert "out of bounds" in repr(live.found(short, headdim=64, **ONE_TILE))


@needs_compiler
@pytest.mark.parametrize("apart", (16, 48, 64, 144, 256, 384))
def test_the_formula_of_the_exercise_is_the_emulators(apart):
    assert wavefronts(apart) == run_pass(apart) == np.gcd(apart // 16, 8)


def test_lines_hold_every_chunk_once_where_it_belongs():
    for layout in (*LAYOUTS.values(), (identity, 9)):
        held = bank_lines.lines(layout, 64)
        there = {tuple(cell) for cell in held.reshape(-1, 2).tolist()} - {(-1, -1)}
        assert there == {(row, chunk) for row in range(8) for chunk in range(8)}
    assert bank_lines.lines(xor, 64)[3, 0].tolist() == [3, 3]
    assert bank_lines.lines(identity, 128)[5, 2].tolist() == [2, 10]
    with pytest.raises(ValueError, match="same place"):
        bank_lines.lines(lambda row, chunk: 0, 64)


def test_bank_lines_are_drawn():
    fig = bank_lines.draw({"plain": identity, "XOR": xor}, chunk=5)
    assert "plain: 8 wavefronts; XOR: 1 wavefront." in fig.alt
    for wrong in ({"layouts": {}}, {"layouts": {"a": xor}, "chunk": 8}):
        with pytest.raises(ValueError, match="accepted"):
            bank_lines.draw(**wrong)
