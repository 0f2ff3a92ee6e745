"""The pictures of the lessons: the numbers behind each against closed forms, the reference or the emulator; and that
what is drawn can be read.
"""
# ruff: noqa: E741  the papers' symbols: l for a row's sum, O for the output

from __future__ import annotations

import numpy as np
import pytest
import torch

from reference import oracle
from stages.s02_online_softmax.kernel import tiled_attention
from tools.bench.shapes import Shape
from tools.pictures import filmstrip, traversal
from tools.plot import traffic


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
