"""The pictures of the lessons: the numbers behind each against closed forms, the reference or the emulator; and that
what is drawn can be read.
"""
# ruff: noqa: E741  the papers' symbols: l for a row's sum, O for the output

from __future__ import annotations

import numpy as np
import pytest
import torch

from reference import Case, oracle
from stages import get
from stages.s02_online_softmax.kernel import tiled_attention
from tests.test_ptx import index_a, index_b, index_c
from tools.bench.shapes import Shape
from tools.emulator import Settings, missing
from tools.emulator.run import run
from tools.pictures import bank_conflicts, filmstrip, fragments, pipeline, traversal
from tools.plot import traffic

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


def test_pipeline_refuses():
    with pytest.raises(ValueError, match="stage is 's21'; accepted: s20, s22, s23"):
        pipeline.program("s21", 3)
    with pytest.raises(ValueError, match="tiles is 0"):
        pipeline.draw(tiles=0)
    with pytest.raises(ValueError, match="copy is 0"):
        pipeline.timeline("s20", copy=0)
    with pytest.raises(ValueError, match="stages is empty"):
        pipeline.draw(())
