"""The pictures of the lessons: the numbers behind each against closed forms, the reference or the emulator; and that
what is drawn can be read.
"""
# ruff: noqa: E741  the papers' symbols: l for a row's sum, O for the output

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from reference import Case, oracle
from stages import get
from stages.s02_online_softmax.kernel import tiled_attention
from tests import synthetic
from tests.test_ptx import index_a, index_b, index_c
from tools import results
from tools.bench.shapes import Shape, grid_shape
from tools.emulator import Settings, missing
from tools.emulator.run import run
from tools.pictures import __main__ as command
from tools.pictures import (
    bank_conflicts,
    canvas,
    causal_tiles,
    filmstrip,
    fragments,
    instruction_mix,
    lazy,
    memory_wall,
    pipeline,
    recorded,
    roofline_path,
    step,
    traversal,
)
from tools.pictures.catalogue import CATALOGUE, FOR_DOCS, NEEDS_COMPILER
from tools.plot import charts, style, traffic
from tools.sass import records

needs_compiler = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def texts(fig) -> set[str]:
    """Every text that a figure shows."""
    return {text.get_text() for text in fig.findobj(match=lambda artist: hasattr(artist, "get_text"))}


# ---- filmstrip ---------------------------------------------------------------------------------------------


def head(rows: int, keys: int, d: int = 8, seed: int = 0):
    random = np.random.default_rng(seed)
    return [random.normal(size=(n, d)) for n in (rows, keys, keys)]


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("rows, keys, Bc", [(5, 12, 4), (4, 13, 5), (6, 6, 2), (9, 5, 4), (1, 1, 3)])
def test_the_walk_ends_in_what_s02_and_the_reference_say(rows, keys, Bc, causal):
    Q, K, V = head(rows, keys)
    frames = filmstrip.walk(Q, K, V, Bc=Bc, causal=causal)
    O, L = filmstrip.result(frames)
    q, k, v = (torch.from_numpy(X)[None, :, None] for X in (Q, K, V))
    out, lse = oracle(q, k, v, causal=causal)
    np.testing.assert_allclose(O, out[0, :, 0].numpy(), rtol=0, atol=1e-13)
    np.testing.assert_allclose(L, lse[0, 0].numpy(), rtol=0, atol=1e-13)
    of_s02 = tiled_attention(Q, K, V, Q.shape[1] ** -0.5, causal)
    for mine, theirs in zip((O, L), of_s02):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("causal", (False, True))
def test_every_frame_is_the_attention_to_the_keys_so_far(causal):
    Q, K, V = head(6, 12)
    S = Q @ K.T / 8**0.5
    if causal:
        S = np.where(np.arange(12) <= np.arange(6)[:, None] + 6, S, -np.inf)
    for frame in filmstrip.walk(Q, K, V, Bc=4, causal=causal):
        seen = S[:, : frame.first_key + 4]
        np.testing.assert_allclose(frame.S, seen[:, frame.first_key :], rtol=0, atol=1e-14)
        m = seen.max(axis=1)
        weights = np.exp(seen - m[:, None])
        np.testing.assert_allclose(frame.m, m, rtol=0, atol=1e-14)
        np.testing.assert_allclose(frame.P, weights[:, frame.first_key :], rtol=1e-13)
        np.testing.assert_allclose(frame.l, weights.sum(axis=1), rtol=1e-13)
        np.testing.assert_allclose(frame.O, weights @ V[: frame.first_key + 4], rtol=0, atol=1e-13)
        before = S[:, : frame.first_key].max(axis=1, initial=-np.inf)
        np.testing.assert_array_equal(frame.grew, (m > before) & (frame.first_key > 0))


def test_the_walk_shows_another_step():
    """A step without its rescale ends elsewhere, and the walk says so; a causal walk leaves out what no row sees."""

    def no_rescale(O, m, l, S, V_j):
        m_new = np.maximum(m, S.max(axis=1))
        P = np.exp(S - m_new[:, None])
        return O + P @ V_j, m_new, l + P.sum(axis=1)

    Q, K, V = filmstrip.example()
    right, wrong = (filmstrip.result(filmstrip.walk(Q, K, V, Bc=4, **own))[0] for own in ({}, {"step": no_rescale}))
    assert np.abs(right - wrong).max() > 0.05
    frames = filmstrip.walk(Q, K, V, Bc=4)
    assert [frame.grew.sum() for frame in frames] == [0, 1, 1]
    assert "2.72" in {text.lstrip("−") for text in texts(filmstrip.draw(frames))}


def test_filmstrip_refuses():
    Q, K, V = head(3, 40)
    with pytest.raises(ValueError, match="Bc is 0"):
        filmstrip.walk(Q, K, V, Bc=0)
    with pytest.raises(ValueError, match=r"Q is \(3, 8\)"):
        filmstrip.walk(Q, K[:, :4], V, Bc=4)
    with pytest.raises(ValueError, match="10 tiles"):
        filmstrip.draw(filmstrip.walk(Q, K, V, Bc=4))


# ---- traversal ---------------------------------------------------------------------------------------------

LENGTHS = [(384, 384), (256, 448), (448, 256), (100, 130), (130, 100), (1, 1)]


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("seqlen_q, seqlen_k", LENGTHS)
@pytest.mark.parametrize("Br, Bc", [(64, 64), (32, 64), (64, 32)])
def test_both_orders_visit_what_some_row_sees_once(seqlen_q, seqlen_k, Br, Bc, causal):
    rows, keys = np.arange(seqlen_q)[:, None], np.arange(seqlen_k)
    visible = (keys <= rows + seqlen_k - seqlen_q) if causal else np.ones((seqlen_q, seqlen_k), bool)
    seen = {(i // Br, j // Bc) for i, j in zip(*np.nonzero(visible))}
    for order in traversal.ORDERS:
        walk = traversal.visits(order, seqlen_q, seqlen_k, Br=Br, Bc=Bc, causal=causal)
        pairs = [(visit.i, visit.j) for visit in walk]
        assert len(set(pairs)) == len(pairs) and set(pairs) == seen
        for program in {visit.program for visit in walk}:
            steps = [visit.step for visit in walk if visit.program == program]
            assert steps == list(range(len(steps)))


def test_who_comes_when():
    v1 = traversal.visits("v1", 128, 192, Br=64, Bc=64)
    assert [(x.program, x.step, x.i, x.j) for x in v1] == [
        (0, 0, 0, 0), (0, 1, 1, 0), (0, 2, 0, 1), (0, 3, 1, 1), (0, 4, 0, 2), (0, 5, 1, 2),
    ]  # fmt: skip
    v2 = traversal.visits("v2", 128, 192, Br=64, Bc=64, causal=True)
    assert [(x.program, x.step, x.i, x.j) for x in v2] == [
        (0, 0, 0, 0), (0, 1, 0, 1), (1, 0, 1, 0), (1, 1, 1, 1), (1, 2, 1, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("headdim, itemsize", [(64, 2), (128, 2), (64, 4)])
@pytest.mark.parametrize(
    "shape",
    [(2, 256, 256, 3, False), (1, 256, 256, 2, True), (1, 128, 320, 2, True), (1, 320, 128, 2, True)],
)
def test_bytes_moved_are_those_of_the_closed_form(shape, headdim, itemsize):
    batch, seqlen_q, seqlen_k, nheads, causal = shape
    shape = Shape(batch, seqlen_q, seqlen_k, nheads, nheads, headdim, causal)
    for order, closed in (("v1", traffic.v1_bytes), ("v2", traffic.v2_bytes)):
        assert sum(traversal.moved(order, shape, itemsize, Br=64, Bc=64).values()) == closed(shape, itemsize, 64, 64)


def test_traversal_draws_every_visit_and_refuses():
    fig = traversal.draw(256, 320, causal=True)
    assert "14" in texts(fig) and "–" in texts(fig) and "15" not in texts(fig)
    with pytest.raises(ValueError, match="order is 'v3'"):
        traversal.visits("v3", 64, 64, Br=64, Bc=64)
    with pytest.raises(ValueError, match="Br is 0"):
        traversal.visits("v1", 64, 64, Br=0, Bc=64)
    with pytest.raises(ValueError, match="64 × 64 tiles"):
        traversal.draw(4096, 4096)


# ---- bank conflicts ----------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("stage", ("s20", "s21", "s28"))
def test_passes_are_those_that_the_emulator_counts(stage):
    case = Case(dtype="bfloat16", headdim=128, seqlen_q=70, seqlen_k=64, nheads=1, nheads_k=1)
    traces = run(stage, get(stage), case, Settings(races=False, trace=3)).report.traces
    assert {"ldmatrix", "ldmatrix.trans", "cp.async", "st.shared", "ld.shared"} <= {trace.op for trace in traces}
    for trace in traces:
        there = {lane for one in trace.passes for lane in one.lanes}
        addresses = [address if lane in there else None for lane, address in enumerate(trace.addresses)]
        assert bank_conflicts.passes(addresses, trace.bytes_per_lane) == trace.passes


@needs_compiler
@pytest.mark.parametrize("stage, f", [("s20", bank_conflicts.identity), ("s21", bank_conflicts.xor)])
@pytest.mark.parametrize("headdim", (64, 128))
def test_a_swizzle_gives_the_stage_its_banks(stage, f, headdim):
    emulated = bank_conflicts.of_stage(stage, headdim=headdim)
    mine = bank_conflicts.of_swizzle(f, headdim=headdim)
    assert mine.passes == emulated.passes
    assert [mine.banks(lane) for lane in range(32)] == [emulated.banks(lane) for lane in range(32)]
    assert len({a - b for a, b in zip(emulated.addresses, mine.addresses)}) == 1  # K lies behind Q


def test_ways_of_known_patterns():
    def ways(f, **options):
        return bank_conflicts.of_swizzle(f, **options).ways

    assert [ways(bank_conflicts.identity, headdim=d) for d in (16, 32, 64, 128)] == [2, 4, 8, 8]
    assert ways(bank_conflicts.identity, row_chunks=17) == 1  # a padding of one chunk
    assert ways(bank_conflicts.xor) == 1 and ways(lambda r, c: (c + r) % 16) == 1
    assert ways(lambda r, c: c ^ r % 4) == 2 and ways(lambda r, c: c ^ r // 2 % 4) == 2
    assert bank_conflicts.of_addresses([4 * lane for lane in range(32)], 4).wavefronts == 1
    assert bank_conflicts.of_addresses([8 * lane for lane in range(32)], 4).wavefronts == 2
    assert bank_conflicts.of_addresses([128 * lane for lane in range(32)], 4).wavefronts == 32
    assert bank_conflicts.of_addresses([0] * 32, 4).wavefronts == 1  # one word for all
    assert bank_conflicts.of_addresses([8 * lane for lane in range(32)], 8).wavefronts == 2  # two passes of 128 bytes
    half = bank_conflicts.of_addresses([128 * lane if lane < 8 else None for lane in range(32)])
    assert [one.wavefronts for one in half.passes] == [8]


def test_the_table_of_a_swizzle():
    table = bank_conflicts.swizzle_table(bank_conflicts.xor, 64)
    np.testing.assert_array_equal(table, np.arange(8)[:, None] ^ np.arange(8))
    groups = bank_conflicts.bank_groups(bank_conflicts.xor, 128)
    np.testing.assert_array_equal(bank_conflicts.ways_of_columns(groups), np.ones(16))
    columns = bank_conflicts.ways_of_columns(bank_conflicts.bank_groups(lambda r, c: c ^ r % 2, 64))
    for chunk in range(0, 6, 2):
        access = bank_conflicts.of_swizzle(lambda r, c: c ^ r % 2, headdim=64, chunk=chunk)
        assert [access.passes[0].wavefronts, access.passes[2].wavefronts] == columns[chunk : chunk + 2].tolist()
    padded = bank_conflicts.bank_groups(bank_conflicts.identity, 64, row_chunks=9)
    np.testing.assert_array_equal(padded, (np.arange(8)[:, None] + np.arange(8)) % 8)


def test_bank_conflicts_refuse():
    with pytest.raises(ValueError, match="chunks 0 and 1 of row 0 in the same place, 0"):
        bank_conflicts.swizzle_table(lambda r, c: c // 2)
    with pytest.raises(ValueError, match="a chunk of row 1 in place 1 to 16 of 16"):
        bank_conflicts.swizzle_table(lambda r, c: c + r)
    with pytest.raises(ValueError, match="addresses are 8"):
        bank_conflicts.of_addresses([0] * 8)
    with pytest.raises(ValueError, match=r"addresses\[3\] is 8; accepted: multiples of 16"):
        bank_conflicts.of_addresses([0, 0, 0, 8] + [0] * 28)
    with pytest.raises(ValueError, match="bytes_per_lane is 12"):
        bank_conflicts.of_addresses([0] * 32, 12)
    with pytest.raises(ValueError, match="row_chunks is 8"):
        bank_conflicts.of_swizzle(bank_conflicts.xor, row_chunks=8)
    with pytest.raises(ValueError, match="accesses are 3"):
        bank_conflicts.draw([bank_conflicts.of_swizzle(bank_conflicts.xor)] * 3)
    with pytest.raises(ValueError, match="of is 'X'"):
        bank_conflicts.of_stage("s20", "X")


# ---- fragments ---------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("lane", (0, 5, 31))
def test_what_a_lane_holds_is_what_the_isa_says(lane):
    for name, index, halves in (("A", index_a, 2), ("B", index_b, 2), ("C", index_c, 1)):
        found = fragments.held(name, lane)
        assert [(one.row, one.column) for one in found] == [index(lane, i) for i in range(len(found))]
        assert [(one.register, one.half) for one in found] == [(i // halves, i % halves) for i in range(len(found))]
    for name in ("ldmatrix", "ldmatrix.trans"):
        places = [(8 * i + lane // 4, lane % 4 * 2 + half) for i in range(4) for half in range(2)]
        if name.endswith("trans"):
            places = [(8 * i + lane % 4 * 2 + half, lane // 4) for i in range(4) for half in range(2)]
        assert [(one.row, one.column) for one in fragments.held(name, lane)] == places


@needs_compiler
@pytest.mark.parametrize("name", fragments.MATRICES)
def test_a_fragment_is_drawn_with_one_lane_framed(name):
    fig = fragments.draw(name, lane=13)
    (ax,) = fig.axes
    f = fragments.matrix(name)
    rows = 8 if name.startswith("ldmatrix") else f.shape[0]
    framed = {patch.get_xy()[::-1] for patch in ax.patches if patch.get_linewidth() > 1}
    cells = {}
    for one in fragments.held(name, 13):
        if one.row < rows:
            cells.setdefault(one.register, (one.row, one.column))
    assert framed == set(cells.values())
    assert f"13 {f.letter}0" in texts(fig)


def test_fragments_refuse():
    with pytest.raises(ValueError, match="name is 'D'; accepted: ldmatrix"):
        fragments.matrix("D")
    with pytest.raises(ValueError, match="lane is 32"):
        fragments.held("A", 32)


# ---- pipeline ----------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("stage", pipeline.STAGES)
@pytest.mark.parametrize("tiles", (1, 4))
def test_the_order_is_that_of_the_kernel(stage, tiles):
    ops = pipeline.program(stage, tiles)
    steps, barriers = pipeline.recorded(stage, tiles)
    assert steps == pipeline.order(ops)
    assert barriers == sum(op.kind == "wait" for op in ops)


@pytest.mark.parametrize("stage", pipeline.STAGES)
def test_no_order_uses_what_is_not_there_or_overwrites_what_is_in_use(stage):
    ops = pipeline.program(stage, 5)
    buffers = pipeline.BUFFERS[stage]
    assert pipeline.hazards(ops, buffers) == []
    unasked = [pipeline.Op("wait", 0), pipeline.Op("QK", 0)]
    assert pipeline.hazards(unasked, buffers) == ["K 0 is used before it is there"]
    for i, op in enumerate(ops):  # every wait is needed
        if op.kind == "wait":
            assert pipeline.hazards(ops[:i] + ops[i + 1 :], buffers)
        if op.kind == "issue" and op.tile >= buffers:  # and no copy may start before the barrier that it comes after
            before = max(j for j in range(i) if ops[j].kind == "wait")
            assert pipeline.hazards([*ops[:before], op, *ops[before:i], *ops[i + 1 :]], buffers)


def test_times_are_those_of_the_closed_form():
    copy, qk, softmax, pv, n = 7, 5, 4, 3, 6
    work = qk + softmax + pv

    def total(stage, **changes):
        lasts = {"copy": copy, "qk": qk, "softmax": softmax, "pv": pv} | changes
        return pipeline.timeline(stage, n, **lasts).total

    assert total("s20") == n * (2 * copy + work)
    # V hides behind Q Kᵀ and the softmax, the next K behind P V; the first K behind nothing.
    assert total("s22") == copy + n * work + (n - 1) * (copy - pv)
    assert total("s22", copy=11) == 11 + n * (work + 11 - qk - softmax) + (n - 1) * (11 - pv)
    assert total("s23") == copy + n * work
    assert total("s23", copy=20) == 20 + (n - 1) * max(20, work) + work
    for stage in pipeline.STAGES:
        line = pipeline.timeline(stage, n)
        assert line.total == pytest.approx(line.waiting + 15 * n)


def test_an_order_of_your_own():
    """s22's with V asked for behind the softmax: right, and slower."""
    ops = pipeline.program("s22", 4)
    late = []
    for op in ops:
        if op.kind == "issue" and op.tensor == "V":
            continue
        late += [op, pipeline.Op("issue", op.tile, "V")] if op.kind == "softmax" else [op]
    assert pipeline.hazards(late, 1) == []
    own, s22 = pipeline.timed(late), pipeline.timeline("s22", 4)
    assert own.total == s22.total + 4 * 7  # V is waited for in full, and K hides behind P V as before
    assert own.tiles == s22.tiles == 4
    fig = pipeline.draw(("s22", own), tiles=4)
    assert any(text.startswith("yours: an order of your own") for text in texts(fig))
    with pytest.raises(ValueError, match="ops has no work"):
        pipeline.timed([pipeline.Op("issue", 0, "K")])


def test_pipeline_refuses():
    with pytest.raises(ValueError, match="stage is 's21'; accepted: s20, s22, s23"):
        pipeline.program("s21", 3)
    with pytest.raises(ValueError, match="tiles is 0"):
        pipeline.draw(tiles=0)
    with pytest.raises(ValueError, match="copy is 0"):
        pipeline.timeline("s20", copy=0)
    with pytest.raises(ValueError, match="stages is empty"):
        pipeline.draw(())


# ---- causal tiles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("lengths", [(512, 640), (300, 200), (200, 300), (64, 64), (127, 128), (1, 130), (130, 1)])
@pytest.mark.parametrize("Br, Bc", [(64, 64), (128, 64), (64, 32), (16, 80)])
def test_tile_classes_are_those_of_the_mask(lengths, Br, Bc, causal):
    seqlen_q, seqlen_k = lengths
    rows, keys = np.arange(seqlen_q)[:, None], np.arange(-(-seqlen_k // Bc) * Bc)  # a ragged tile's keys past the end
    visible = (keys < seqlen_k) & ((keys <= rows + seqlen_k - seqlen_q) | (not causal))
    made = causal_tiles.classes(seqlen_q, seqlen_k, Br, Bc, causal)
    number = dict.fromkeys(causal_tiles.NAMES, 0)
    for (i, j), kind in np.ndenumerate(made):
        tile = visible[i * Br : (i + 1) * Br, j * Bc : (j + 1) * Bc]
        should = causal_tiles.FULL if tile.all() else causal_tiles.MASKED if tile.any() else causal_tiles.SKIPPED
        assert kind == should, (i, j)
        number[should] += 1
    assert causal_tiles.counts(made) == number
    assert causal_tiles.work(made).tolist() == [
        sum(visible[i : i + Br, j : j + Bc].any() for j in range(0, seqlen_k, Bc)) for i in range(0, seqlen_q, Br)
    ]


@needs_compiler
def test_s25_walks_as_many_tiles():
    """Its mma, counted by the emulator: so many a tile of the walk."""
    made = get("s25")
    Br, Bc, d, warps = made.tiles["Br"], made.tiles["Bc"], 64, made.tiles["num_warps"]
    a_tile = 2 * (Br // 16) * (Bc // 8) * (d // 16)  # of 16 × 8 × 16, for Q Kᵀ and for P V
    assert Br == 16 * warps
    for seqlen_q, seqlen_k in ((200, 300), (300, 200)):
        case = Case(
            dtype="bfloat16", headdim=d, seqlen_q=seqlen_q, seqlen_k=seqlen_k, nheads=1, nheads_k=1, causal=True
        )  # fmt: skip
        report = run("s25", made, case, Settings(races=False)).report
        walked = causal_tiles.work(causal_tiles.classes(seqlen_q, seqlen_k, Br, Bc)).sum()
        assert report.total("instructions", "mma") == walked * a_tile


def test_a_schedule_is_one():
    of_tile = causal_tiles.work(causal_tiles.classes(1024, 1024, 128, 64))
    assert of_tile.tolist() == [2, 4, 6, 8, 10, 12, 14, 16]
    for order in causal_tiles.ORDERS:
        jobs = causal_tiles.schedule(order, of_tile, heads=6, slots=8, fixed=1)
        assert sorted((job.head, job.tile) for job in jobs) == [(h, t) for h in range(6) for t in range(8)]
        assert all(job.end - job.start == of_tile[job.tile] + 1 for job in jobs)
        for slot in range(8):
            own = sorted((job for job in jobs if job.slot == slot), key=lambda job: job.start)
            assert own[0].start == 0 and all(a.end == b.start for a, b in zip(own, own[1:]))
        starts = [job.start for job in jobs]
        assert starts == sorted(starts)  # nobody overtakes
        last_start = max(starts)
        assert all(max(job.end for job in jobs if job.slot == slot) >= last_start for slot in range(8))


def test_the_heaviest_first_ends_earlier():
    of_tile = causal_tiles.work(causal_tiles.classes(1024, 1024, 128, 64))
    ends = {o: causal_tiles.ends(causal_tiles.schedule(o, of_tile, 6, 8)) for o in causal_tiles.ORDERS}
    ideal = of_tile.sum() * 6 / 8
    assert ends["s31"] > ends["s32"] >= ideal
    assert (
        causal_tiles.ends(causal_tiles.schedule("s32", [3, 3, 2, 2, 2], 1, 2)) == 7
    )  # Graham's example: 6 is possible
    assert causal_tiles.launched("s31", 2, 2) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert causal_tiles.launched("s32", 2, 2) == [(0, 1), (1, 1), (0, 0), (1, 0)]


def test_causal_tiles_refuse():
    with pytest.raises(ValueError, match="Bc is 0"):
        causal_tiles.classes(64, 64, 64, 0)
    with pytest.raises(ValueError, match="256 × 256 tiles"):
        causal_tiles.draw(16384, 16384)
    with pytest.raises(ValueError, match="order is 's30'"):
        causal_tiles.launched("s30", 2, 2)
    with pytest.raises(ValueError, match="slots is 0"):
        causal_tiles.draw_schedule(slots=0)
    with pytest.raises(ValueError, match="fixed is -1"):
        causal_tiles.draw_schedule(fixed=-1)


# ---- the memory wall ---------------------------------------------------------------------------------------


def test_the_wall_is_that_of_the_closed_forms():
    one, two = memory_wall.counted((4096, 8192), headdim=128, itemsize=2, Br=64, Bc=64)
    assert (one.scores, one.tile) == (2 * 4096**2, 4 * 64**2)
    assert one.once == 4 * 4096 * 128 * 2 + 4 * 4096
    assert one.naive == one.once + 4 * one.scores
    assert one.asked == 2 * 4096 * 128 * 2 + 4 * 4096 + 64 * (2 * 4096 * 128 * 2)  # K and V for each of 64 Q tiles
    assert (two.scores, two.tile, two.once) == (4 * one.scores, one.tile, 2 * one.once)
    with pytest.raises(ValueError, match="Br is 0"):
        memory_wall.counted(Br=0)


def test_what_is_measured_is_of_one_sequence(sheet):
    gpu = memory_wall.measured(sheet, "gpu", 128)
    assert list(gpu) == ["torch_math", "s12_triton_v2"]
    record = next(r for r in sheet.gpu if (r["name"], r["headdim"], r["causal"], r["seqlen_q"]) == (
        "torch_math", 128, False, 1024,
    ))  # fmt: skip
    at = next(one for one in gpu["torch_math"] if one.seqlen == 1024)
    assert record["batch"] == 16 and at.ms == record["ms_median"] / 16 and at.bytes == record["peak_bytes"] / 16
    naive, online = memory_wall.measured(sheet, "host").values()
    assert naive[-1].bytes / naive[-2].bytes == 4 and online[-1].bytes / online[-2].bytes == 2
    with pytest.raises(ValueError, match="where is 'tpu'"):
        memory_wall.measured(sheet, "tpu")
    sheet.gpu.clear()
    assert memory_wall.measured(sheet, "gpu") == {}
    assert len(memory_wall.draw(sheet=sheet).axes) == 2  # what is counted needs no records


def test_the_wall_of_the_naive_one_alone_gives_nothing_away(sheet):
    def said(**how):
        fig = memory_wall.draw("host", headdim=64, itemsize=4, sheet=sheet, **how)
        return " ".join([fig.alt, *(text.get_text() for ax in fig.axes for text in ax.get_legend().get_texts())])

    alone, both = said(naive_only=True), said()
    assert "s01" in alone and "s02" not in alone and "tile" not in alone
    assert "s02" in both and "a tile of S" in both
    for text in (alone, both):  # of words that are explained later
        assert "L2" not in text and "sm_90" not in text and "block" not in text


def test_the_memory_moves_each_tensor_about_once():
    """The committed counters of the profiler, against the closed form that the picture draws."""
    seen = memory_wall.profiled(recorded.sheet("H200").device)
    assert seen
    for one in memory_wall.counted(tuple(seen)):
        assert seen[one.seqlen] == pytest.approx(one.once, rel=0.1)
        assert one.naive > 10 * seen[one.seqlen]


# ---- step and roofline -------------------------------------------------------------------------------------


@pytest.fixture
def sheet():
    file = results.Results(Path("synthetic.json"), synthetic.environment(), {}, synthetic.records())
    (made,) = charts.sheets([file])
    return made


def test_rungs_are_those_of_one_shape(sheet):
    made = step.rungs(sheet, headdim=128, causal=True, seqlen=2048)
    fa2 = synthetic.FA2[128, True][2]
    assert {rung.name: rung.tflops for rung in made} == pytest.approx(
        {"s11_triton_v1": synthetic.V1_TFLOPS[2], "torch_math": 25.0}
        | {name: fa2 * times for name, times in synthetic.TIMES_FA2.items()}
    )
    assert [rung.name[:3] for rung in made][:4] == ["s11", "s12", "s13", "s20"]
    assert step.gain(made, "s13") == pytest.approx(1.5 / 0.6)
    assert step.gain(made, "s20") is None and step.gain(made, "s21") is None  # parent, stage not timed
    parts = [step.Rung("s02_online_softmax", 1, "stage"), step.Rung("s11_triton_v1", 9, "stage")]
    assert step.gain(parts, "s11") is None  # a new part
    with pytest.raises(results.NoData, match="head dim 128, causal, seqlen 100"):
        step.rungs(sheet, headdim=128, causal=True, seqlen=100)


def test_a_step_is_drawn_with_its_gain(sheet):
    fig = step.draw("s13", headdim=128, causal=True, seqlen=2048, sheet=sheet)
    fa2 = synthetic.FA2[128, True][2]
    assert f"s13 triton tuned: {1.5 * fa2:.3g} TFLOP/s, 2.5× s12" in texts(fig)
    assert f"FA2 {fa2:.3g}" in texts(fig)
    bars = {bar.get_height(): bar for bar in fig.axes[0].patches}
    assert bars[1.5 * fa2].get_facecolor() == pytest.approx((*to_rgb(style.COLOURS[1]), 1))
    assert bars[0.6 * fa2].get_hatch() == "////"
    assert "s21 is not timed at this shape" in texts(step.draw("s21", sheet=sheet))


def test_the_path_lies_under_the_roof(sheet):
    points = {point.name: point for point in roofline_path.path(sheet, headdim=128, seqlen=4096)}
    shape = grid_shape(4096, 128, False)
    v2 = points["s12_triton_v2"]
    assert v2.intensity == pytest.approx(4 * 4096**2 * 128 / (4 * 4096 * 128 * 2 + 4 * 4096))  # per head
    assert points["s11_triton_v1"].intensity == pytest.approx(shape.flops / traffic.v1_bytes(shape, 2, 64, 64))
    assert v2.bound == 798.0  # beyond the knee
    assert points["s11_triton_v1"].bound == pytest.approx(4.25 * points["s11_triton_v1"].intensity)
    assert v2.tflops == pytest.approx(0.6 * 356)
    assert "torch_fa2" not in points
    assert any("of the roof" in text for text in texts(roofline_path.draw("s12", sheet=sheet)))
    sheet.environment["ceilings"] = None
    with pytest.raises(results.NoData, match="no ceilings"):
        roofline_path.path(sheet)


# ---- instruction mix ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ("s20", "s33"))
def test_the_mix_is_the_whole_loop(stage):
    made = instruction_mix.of_stage(stage)
    assert sum(made.families.values()) == made.total
    stored = records.load(records.path_of(get(stage)))
    record = records.find([stored], get(stage).name, arch="90a", dtype="bfloat16", headdim=128, causal=False)
    assert made.total == record["loop"]["total"] and made.registers == record["registers"]
    assert made.families["MOV"] == sum(record["loop"]["opcodes"].get(o, 0) for o in ("MOV", "IMAD.MOV", "CS2R"))


def test_an_s20_turn_has_the_instructions_of_its_arithmetic():
    """A turn of s20's loop at head dim 128: 64 keys for 16 rows a warp."""
    made = instruction_mix.of_stage("s20")
    assert made.products == 2 * (64 // 8) * (128 // 16)
    assert made.families["LDSM"] == made.products // 2  # an ldmatrix.x4 is two B operands
    assert made.families["LDGSTS"] >= 2 * 64 * 128 * 2 // 16 // 128  # 16 bytes each, of 128 threads
    assert made.families["BAR"] == 2


def test_mixes_side_by_side():
    a = instruction_mix.Mix("s20_mma", 100, 64, {"HMMA": 20, "MUFU": 40, "other": 40})
    b = instruction_mix.Mix("s21_swizzle", 100, 64, {"HMMA": 40, "FFMA": 20, "other": 40})
    assert instruction_mix.side_by_side(a, b) == {"HMMA": (20, 40), "MUFU": (40, 0), "FFMA": (0, 20), "other": (40, 40)}
    each = instruction_mix.side_by_side(a, b, "product")
    assert each == {"HMMA": (1, 1), "MUFU": (2, 0), "FFMA": (0, 0.5), "other": (2, 1)}
    with pytest.raises(ValueError, match="per is 'loop'"):
        instruction_mix.side_by_side(a, b, "loop")
    with pytest.raises(ValueError, match="one of the loops has none"):
        instruction_mix.side_by_side(a, instruction_mix.Mix("x", 1, 1, {"other": 1}), "product")
    with pytest.raises(results.NoData, match="arch=70"):
        instruction_mix.of_stage("s20", arch="70")


# ---- lazy rescaling ----------------------------------------------------------------------------------------


def s33_by_rows(S, V, threshold, per_warp, Bc):
    """s33's recurrence for one Q tile in plain loops -> O / l, and [(warp, tile)] of its rescales."""
    rows, keys = S.shape
    out, rescaled = np.zeros((rows, V.shape[1])), []
    for warp, first in enumerate(range(0, rows, per_warp)):
        own = range(first, min(first + per_warp, rows))
        m, l, O = dict.fromkeys(own, -np.inf), dict.fromkeys(own, 0.0), {i: np.zeros(V.shape[1]) for i in own}
        for n, j in enumerate(reversed(range(0, keys, Bc))):
            m_new = {i: max(m[i], S[i, j : j + Bc].max()) for i in own}
            if n == 0 or any((m_new[i] - m[i]) / np.log(2) > threshold for i in own):
                if n > 0:
                    rescaled.append((warp, n))
                for i in own:
                    alpha = np.exp(m[i] - m_new[i])
                    m[i], l[i], O[i] = m_new[i], l[i] * alpha, O[i] * alpha
            for i in own:
                P = np.exp(S[i, j : j + Bc] - m[i])
                l[i], O[i] = l[i] + P.sum(), O[i] + P @ V[j : j + Bc]
        for i in own:
            out[i] = O[i] / l[i]
    return out, rescaled


@pytest.mark.parametrize("threshold", (0.0, 1.0, 8.0))
@pytest.mark.parametrize("scale", (1, 6))
def test_votes_are_those_of_the_recurrence_whose_result_stays_right(threshold, scale):
    random = np.random.default_rng(1)
    S, V = scale * random.normal(size=(30, 75)), random.normal(size=(75, 4))
    out, rescaled = s33_by_rows(S, V, threshold, 8, 16)
    P = np.exp(S - S.max(axis=1, keepdims=True))
    np.testing.assert_allclose(out, P @ V / P.sum(axis=1, keepdims=True), rtol=0, atol=1e-12)
    found = lazy.votes(S, threshold, Br=32, Bc=16, num_warps=4)
    assert [tuple(place) for place in np.argwhere(found.rescaled)] == rescaled
    assert found.counted.tolist() == [[False, True, True, True, True]] * 4
    assert found.largest.max() <= threshold + 1e-9  # P is at most 2^threshold
    assert found.share == len(rescaled) / 16


@needs_compiler
@pytest.mark.parametrize(
    "family, headdim, seqlen_k, causal",
    [("ramp", 64, 320, False), ("spikes", 64, 320, True), ("activations", 32, 331, False)],
)  # fmt: skip
def test_s33_rescales_as_often(family, headdim, seqlen_k, causal):
    """A quad shares its maxima in a walk's first tile and where it rescales: the emulator counts its shuffles."""
    shape = {"headdim": headdim, "seqlen_q": 200, "seqlen_k": seqlen_k, "nheads": 2, "nheads_k": 2, "causal": causal}
    case = Case(dtype="float16", family=family, seed=1, **shape)
    made, report = get("s33"), run("s33", get("s33"), case, Settings(races=False)).report
    Br, warps = made.tile_rows(64, 2), made.tiles["num_warps"]
    q, k, _ = (x.double().numpy() for x in case.inputs())
    mask = np.where(np.arange(seqlen_k) > np.arange(200)[:, None] + seqlen_k - 200, -np.inf, 0) if causal else 0.0
    rescaled = 0
    for head in range(2):
        S = headdim**-0.5 * (q[0, :, head] @ k[0, :, head].T) + mask
        found = lazy.votes(S, Br=Br, Bc=made.tiles["Bc"], num_warps=warps)
        rescaled += found.rescaled.sum()
    walks = 2 * warps * -(-200 // Br)  # of all blocks' warps: one without a row walks as well, and never rescales
    in_a_row = 4 * (Br // warps // 16)  # shuffles: two for each of a thread's rows
    assert report.total("instructions", "shfl") == in_a_row * (2 * walks + rescaled)  # first tile, rescales, the end
    assert rescaled > 0


def test_growth_is_as_rare_as_records_are():
    """Scores drawn alike: a row's maximum grows in the t-th tile, from 0, with probability 1 / (t + 1)."""
    S = np.random.default_rng(0).normal(size=(6000, 40))
    found = lazy.votes(S, 0.0, Br=1, Bc=4, num_warps=1)
    for t in range(1, 10):
        p = 1 / (t + 1)
        assert abs(found.rescaled[:, t].mean() - p) < 5 * (p * (1 - p) / len(S)) ** 0.5
    together = lazy.votes(S, 0.0, Br=16, Bc=4, num_warps=1).rescaled[:, 1:].mean(axis=0)
    assert together[-1] == pytest.approx(1 - (1 - 1 / 10) ** 16, abs=0.1)  # one row of sixteen is enough


def test_votes_under_a_mask():
    """Tiles that no row of the block sees are not walked; a row that sees no key yet takes the first that it sees."""
    S = np.zeros((4, 6))
    S[np.arange(6) > np.arange(4)[:, None]] = -np.inf
    found = lazy.votes(S, 8.0, Br=2, Bc=2, num_warps=1)
    # Backwards: tile 0 is keys 4, 5, tile 1 keys 2, 3, tile 2 keys 0, 1. Rows 0, 1 see only the last, rows 2, 3 two.
    assert found.counted.tolist() == [[False, False, False], [False, False, True]]
    assert not found.rescaled.any()
    late = np.array([[0.0, -np.inf], [0.0, 0.0]])
    assert lazy.votes(late, 8.0, Br=2, Bc=1, num_warps=1).rescaled.tolist() == [[False, True]]
    forwards = lazy.votes(late, 8.0, Br=2, Bc=1, num_warps=1, backwards=False)
    assert forwards.rescaled.tolist() == [[False, False]] and forwards.m.tolist() == [0, 0]


def test_bounds_and_families():
    heads = lazy.scores("normal", seqlen=256, nheads=1)
    falling = lazy.shares(heads, (0, 1, 2, 8))
    assert falling == sorted(falling, reverse=True) and falling[-1] == 0
    by_tile = lazy.shares_by_tile(heads, 0.0)
    assert np.mean(by_tile) == pytest.approx(falling[0])
    real = lazy.scores("activations")
    assert len(real) == 18 and real[0].shape == (331, 331)
    assert 0 < lazy.shares(real, (8.0,))[0] < lazy.shares(real, (0.0,))[0] < 1
    ramp = lazy.scores("ramp", seqlen=512)
    assert [lazy.votes(S, 7.0).share > 0.3 for S in ramp] == [False, True]  # the walk is backwards


def test_lazy_refuses():
    with pytest.raises(ValueError, match="Br is 128, Bc 64, num_warps 3"):
        lazy.votes(np.zeros((4, 4)), num_warps=3)
    with pytest.raises(ValueError, match="threshold is -1"):
        lazy.votes(np.zeros((4, 4)), -1)
    with pytest.raises(ValueError, match=r"S is \(4,\)"):
        lazy.votes(np.zeros(4))
    with pytest.raises(ValueError, match="families has 'uniform'"):
        lazy.draw(("uniform",))


# ---- a part of a picture, for sliders ----------------------------------------------------------------------


def test_walks_are_drawn_up_to_a_step():
    assert {"8", "9"} & texts(traversal.draw(512, 512, upto=8)) == {"8"}  # the axes' numbers end at 7
    axes = filmstrip.draw(upto=2).axes
    assert [ax.axison for ax in axes] == 4 * [True, True, False]


# ---- the command -------------------------------------------------------------------------------------------


def test_the_command_draws_what_is_named(tmp_path, capsys):
    assert command.main(["--out", str(tmp_path / "a"), "swizzle-table", "step"]) == 0
    written = {path.name for path in (tmp_path / "a").iterdir()}
    assert written == {f"{name}.{suffix}" for name in ("swizzle-table", "step") for suffix in ("png", "svg")}
    assert capsys.readouterr().out.count("\n") == 4
    assert command.main(["--list"]) == 0
    assert capsys.readouterr().out.split() == list(CATALOGUE)


def test_the_command_says_what_it_cannot_draw(tmp_path, capsys, monkeypatch):
    def lacking():
        raise results.NoData("nothing was measured")

    monkeypatch.setitem(CATALOGUE, "step", lacking)
    assert command.main(["--out", str(tmp_path), "step", "swizzle-table"]) == 1
    assert "step is not drawn: nothing was measured" in capsys.readouterr().err
    assert (tmp_path / "swizzle-table.png").exists()
    (tmp_path / "file").write_text("")
    for wrong, says in ((["fresco"], "NAME: 'fresco'"), (["--out", str(tmp_path / "file")], "argument --out")):
        with pytest.raises(SystemExit) as exit_:
            command.main(wrong)
        assert exit_.value.code == 2 and says in capsys.readouterr().err


def test_results_of_another_gpu_are_not_there():
    with pytest.raises(results.NoData, match="called 'RTX 9000'"):
        recorded.sheet("RTX 9000")
    assert "H200" in recorded.sheet().device


# ---- what is drawn -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn():
    """Every picture of the catalogue, laid out. Not to be changed."""
    made = {name: draw() for name, draw in CATALOGUE.items() if missing() is None or name not in NEEDS_COMPILER}
    with matplotlib.rc_context(style.SETTINGS):
        for fig in made.values():
            fig.draw_without_rendering()
    return made


def test_every_picture_fits_and_can_be_read(drawn):
    for name, fig in drawn.items():
        width, height = fig.get_size_inches()
        assert width <= 7.5 and height <= 8, name
        assert len(fig.alt) > 40 and fig.alt.endswith("."), name
        page = fig.bbox.padded(1)
        for text in set(fig.findobj(Text)) - beside_the_axis(fig):
            if text.get_text().strip() and text.get_visible():
                box = text.get_window_extent()
                assert text.get_fontsize() >= canvas.SMALLEST, (name, text.get_text())
                assert page.contains(box.x0, box.y0) and page.contains(box.x1, box.y1), (name, text.get_text())


def beside_the_axis(fig) -> set:
    """Labels of ticks beyond an axis' ends: matplotlib makes some, and does not draw them."""
    labels = set()
    for axis in (axis for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        ticks = [tick for tick in (*axis.majorTicks, *axis.minorTicks) if not low <= tick.get_loc() <= high]
        labels |= {label for tick in ticks for label in (tick.label1, tick.label2)}
    return labels


def test_titles_and_footers_do_not_meet_the_axes(drawn):
    for name, fig in drawn.items():
        written = [text.get_window_extent() for text in fig.texts if text.get_text()]
        for ax in fig.axes:
            box = ax.get_tightbbox()
            assert not any(box.overlaps(text) for text in written), name


def test_a_notebook_shows_a_picture_with_its_text(drawn):
    data, metadata = drawn["filmstrip"]._repr_png_()
    assert data.startswith(b"\x89PNG") and len(data) < 60_000
    assert metadata["alt"] == drawn["filmstrip"].alt and metadata["width"] == 720
    assert drawn["filmstrip"]._repr_png_()[0] == data


def test_pictures_are_the_same_every_time(tmp_path):
    written = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        written.append([path.read_bytes() for path in style.save(causal_tiles.draw(), folder, "x")])
    assert written[0] == written[1]


def test_what_docs_show_is_in_the_catalogue():
    assert set(FOR_DOCS) | set(NEEDS_COMPILER) <= set(CATALOGUE)
    with pytest.raises(ValueError, match="width is 8"):
        canvas.picture(3, "", "", "", width=8)
