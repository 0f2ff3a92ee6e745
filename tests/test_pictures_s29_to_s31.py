"""The pictures of addresses, strides, tiles and the tuner's choice: their numbers against the kernels' own, as the
emulator runs them, and against what was recorded."""

from __future__ import annotations

import collections
import dataclasses
import re

import matplotlib
import pytest
import torch

from reference import Case
from stages import get
from stages.common.tiles import Tiles, use
from tests import test_pictures as looks
from tools.autotune.table import Table
from tools.emulator import Settings, missing
from tools.emulator.run import run
from tools.lesson.exercises.s34 import PART
from tools.pictures import address, causal_tiles, instruction_mix, reuse, search, strides
from tools.plot import style

needs_compiler = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def of_one_tile(stage: str, headdim: int, trace: int = 0, rows: int = 64):
    """The report of one Q tile and one K/V tile."""
    case = Case(dtype="float16", headdim=headdim, seqlen_q=rows, seqlen_k=64, nheads=1, nheads_k=1)
    made = run(stage, get(stage), case, Settings(trace=trace))
    assert made.ok
    return made.report


# ---- address -----------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("headdim", (64, 128))
def test_addresses_are_those_of_the_kernel(headdim):
    """Every lane of the first warp at every ldmatrix of K, in the order of the loops: k outside, n inside."""
    tile = 64 * headdim * 2  # Q's, and K's; where K begins: the tile that is walked is in the first buffer
    traces = of_one_tile("s29", headdim, trace=10_000).traces
    mine = [t for t in traces if t.op == "ldmatrix" and t.warp == 0 and t.addresses[0] >= tile]
    steps = [(k, n) for k in range(headdim // 16) for n in range(4)]
    assert len(mine) == len(steps)
    for (k, n), trace in zip(steps, mine):
        for lane, at in enumerate(trace.addresses):
            assert at - tile == address.lines(headdim, lane, k, n)[-1].value, (k, n, lane)


@pytest.mark.parametrize("headdim", (64, 128))
def test_a_step_is_the_swizzle_computed_anew(headdim):
    for lane in range(32):
        key, chunk, place = address.lane_place(headdim, lane)
        for k in range(headdim // 16):
            for n in range(4):
                own, xor, add, whole = address.lines(headdim, lane, k, n)
                assert own.value == place and (own.value ^ xor.value) + add.value == whole.value
                assert whole.value == address.tile_offset(headdim, key + 16 * n, chunk + 2 * k)
                for line in (own, xor, add, whole):
                    assert int("".join(map(str, line.bits)), 2) == line.value
                assert not any(
                    bit and not touched for line in (xor, add) for bit, touched in zip(line.bits, line.touched)
                )
    assert sum(bits for _, bits in address.fields(headdim)) == address.width(headdim)


def test_how_many_addresses_and_how_many_of_them_are_computed():
    assert address.addresses(64) == (16, 4)
    assert address.addresses(128) == (32, 8)
    assert address.tile_step(64, 48, 1, 0) == 176


def test_address_refuses():
    for wrong, says in (
        ({"d": 32}, "d is 32; accepted: 64, 128"),
        ({"lane": 32}, "lane is 32"),
        ({"k": 8}, "k is 8"),
        ({"n": 4}, "n is 4"),
    ):
        with pytest.raises(ValueError, match=says):
            address.draw(**wrong)


# ---- strides -----------------------------------------------------------------------------------------------


def test_rows_are_where_the_strides_say():
    made = strides.layouts(nheads=4, nheads_k=2, headdim=64, head=1)
    assert [one.stride for one in made] == [256, 128, 64, 768]
    for one in made:
        places = [place for place, row in enumerate(one.rows) if row is not None]
        assert [one.rows[place] for place in places] == list(range(len(places)))
        assert {b - a for a, b in zip(places, places[1:])} == {one.stride // 64}
    assert [one.rows.index(0) for one in made] == [1, 1, 0, 1]
    q = torch.empty(8, 4, 64)
    assert made[0].stride == q.stride(0)


def test_strides_refuse():
    with pytest.raises(ValueError, match="head is 2, nheads_k 2"):
        strides.draw(head=2)


# ---- reuse -------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("headdim", (64, 128))
@pytest.mark.parametrize(
    "tiles", (Tiles(64, 64, 4, 2, True, 2), Tiles(128, 32, 4, 2, True, 1), Tiles(128, 64, 8, 2, True, 1))
)
def test_fragments_and_products_are_those_that_the_emulator_counts(tiles, headdim):
    with use(tiles):
        report = of_one_tile("s31", headdim, rows=tiles.Br)
    walked = 64 // tiles.Bc
    counted = reuse.work(tiles, headdim)
    q = tiles.Br // 16 * (headdim // 16)  # loaded once
    assert report.total("instructions", ("ldmatrix", "ldmatrix.trans")) - q == walked * counted["ldmatrix"]
    assert report.total("instructions", "mma") == walked * counted["mma"]


@pytest.mark.parametrize("headdim", (64, 128))
def test_the_bill_is_that_of_the_configuration(headdim):
    for tiles in (Tiles(64, 64, 4, 2, True, 2), Tiles(128, 80, 4, 2, False, 1), Tiles(256, 48, 8, 3, True, 1)):
        assert sum(reuse.registers(tiles, headdim).values()) == tiles.registers(headdim)


# ---- search ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned() -> Table:
    return search.table("NVIDIA H200")


@pytest.mark.parametrize("stage", ("s31", "s32", "s33", "s34"))
def test_every_configuration_has_a_fate(stage, tuned):
    for part in search.parts(stage):
        fates, speeds = search.fates(part, tuned), search.speeds(part, tuned)
        (dropped,) = tuned.of(part, "dropped")
        assert sum(fates.values()) == sum(dropped["by"].values()) + len(tuned.of(part, "candidates"))
        assert search.choice(part, tuned) in speeds
        assert len(speeds) == fates["measured"], "all are timed at the shortest length"


def test_a_fate_that_nobody_knows_is_an_error(tuned):
    part = search.parts("s31")[0]
    (entry,) = tuned.of(part, "dropped")
    other = dataclasses.replace(tuned, dropped=[entry | {"by": collections.Counter(weather=1)}])
    with pytest.raises(ValueError, match="dropped by weather"):
        search.fates(part, other)


# ---- the questions at the end of s34 -----------------------------------------------------------------------


@needs_compiler
def test_the_answers_about_the_part_are_those_of_the_kernels():
    loads = [[site for site in of_one_tile(s, 128).sites if site.op == "ldmatrix"] for s in ("s20", "s21")]
    assert tuple(max(site.wavefronts // site.passes for site in sites) for sites in loads) == PART["ways"]
    barriers = []
    for stage in ("s22", "s23"):
        one, three = (
            run(stage, get(stage), Case(dtype="float16", seqlen_q=64, seqlen_k=keys, nheads=1, nheads_k=1), Settings())
            for keys in (64, 192)
        )
        more = [made.report.total("instructions", "__syncthreads") for made in (one, three)]
        barriers.append((more[1] - more[0]) / (2 * 4))  # for two tiles, of four warps
    assert tuple(barriers) == PART["barriers"]


def test_the_answers_about_the_part_are_those_of_arithmetic():
    made = causal_tiles.classes(512, 512, 64, 64)
    kinds = (causal_tiles.SKIPPED, causal_tiles.FULL, causal_tiles.MASKED)
    assert tuple(causal_tiles.counts(made)[kind] for kind in kinds) == PART["tiles"]
    works = [reuse.work(Tiles(rows * 4, 64, 4, 2, True, 1), 128) for rows in (16, 32)]
    assert tuple(work["mma"] / work["ldmatrix"] for work in works) == PART["products"]
    growth = re.search(r"MAX_GROWTH = (\d+)\.f", get("s33").kernel_file.read_text(encoding="utf-8"))
    assert PART["largest"] == (1, 2 ** int(growth[1]))
    before, after = (instruction_mix.of_stage(stage).families for stage in ("s26", "s27"))
    fp32 = [sum(mix[name] for name in ("FMUL", "FADD", "FFMA")) for mix in (before, after)]
    scores = 64 * 16 // 32  # of a thread
    assert round((fp32[0] - fp32[1]) / scores) == PART["exponent"][0] - PART["exponent"][1]


# ---- what is drawn -----------------------------------------------------------------------------------------


def test_they_fit_and_can_be_read(tuned):
    two = ("s30", Tiles(64, 64, 4, 2, True, 2)), ("s31", Tiles(128, 64, 4, 2, True, 2))
    drawn = {
        "address-64": address.draw(d=64, lane=27, k=2, n=1),
        "address-128": address.draw(),
        "strides": strides.draw(),
        "reuse": reuse.draw(*two, headdim=64),
        "registers": reuse.draw_registers([(label, 64, tiles) for label, tiles in two]),
        **{f"search-{stage}": search.draw(stage, tuned) for stage in ("s31", "s32", "s33", "s34")},
    }
    with matplotlib.rc_context(style.SETTINGS):
        for fig in drawn.values():
            fig.draw_without_rendering()
    looks.test_every_picture_fits_and_can_be_read(drawn)
    looks.test_titles_and_footers_do_not_meet_the_axes(drawn)
    assert "9504" in looks.texts(drawn["address-128"])
    assert any("4 mma for an ldmatrix" in text for text in looks.texts(drawn["reuse"]))
