"""Orders that readers write down, orders of threads and copies, and rings of buffers."""

from __future__ import annotations

import pytest

from tools.emulator import missing
from tools.lesson import live
from tools.lesson.exercises.s22 import order, s21_order
from tools.lesson.exercises.s23 import FIVE_TILES
from tools.lesson.orders import draw_order, ops_of, outcomes, problem_of
from tools.lesson.rings import ring
from tools.pictures.pipeline import program

needs_compiler = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.mark.parametrize("written, stage", ((s21_order, "s20"), (order, "s22")))
def test_steps_in_words_are_those_of_the_stages(written, stage):
    told = [(op.kind, op.tensor, op.tile) for op in ops_of(written(3)) if op.kind != "wait"]
    assert told == [(op.kind, op.tensor, op.tile) for op in program(stage, 3) if op.kind != "wait"]
    assert [op.kind for op in ops_of(written(3))] == [op.kind for op in program(stage, 3)]


@pytest.mark.parametrize("step", ("copy Q0", "wait 1", "QK", "copy K", "PV-1", None, 3))
def test_a_step_of_another_form_is_an_error(step):
    with pytest.raises(ValueError, match="accepted: copy K0"):
        ops_of([step])


def test_what_is_wrong_with_an_order_is_said():
    good = order(2)
    assert problem_of(good, 2, buffers=1) == ""
    assert "number 6" in problem_of(good[:-1], 2, buffers=1)
    assert "one too many" in problem_of([*good, "QK2"], 2, buffers=1)
    assert "before a barrier" in problem_of(["copy K0", "wait", "QK0", "copy K1", "softmax0", "PV0"], 1, buffers=1)
    assert "before it is there" in problem_of(["copy K0", "QK0", "softmax0", "PV0"], 1, buffers=1)


def test_orders_are_drawn_and_wrong_ones_are_not():
    def stub(tiles): ...

    assert "yours takes" in repr(draw_order(order, beside="s20"))
    assert repr(draw_order(stub, beside="s20")) == "no answer yet"
    assert "before it is there" in repr(
        draw_order(lambda tiles: [s for s in order(tiles) if s != "wait"], beside="s20")
    )


@needs_compiler
def test_outcomes_tell_late_from_early():
    V_there = "    __syncthreads();  // V is there for all; and all are done with this tile's K\n"
    no_wait = live.planted("s22", ("    cp_async_wait<0>();\n" + V_there, V_there), label="no wait")
    fields = {"headdim": 64, "seqlen_q": 16, "seqlen_k": 128, "nheads": 1, "nheads_k": 1, "causal": False}
    rows = [line.strip("| ").split(" | ") for line in outcomes("s22", no_wait, **fields).text.splitlines()[2:]]
    assert all(row[3:] == ["right", "nothing"] for row in rows[:4])
    assert [row[3] for row in rows[4:]] == ["WRONG", "WRONG", "right", "right"]
    assert all("race" in row[4] for row in rows[4:])


@needs_compiler
@pytest.mark.parametrize("buffers", (2, 3, 4))
def test_a_ring_wants_its_wait(buffers):
    assert live.emulated(ring(buffers, buffers - 2), **FIVE_TILES).ok
    assert not live.emulated(ring(buffers, buffers - 1), **FIVE_TILES).ok


def test_a_ring_of_nothing_is_an_error():
    for wrong in ((1, 0), (2, -1), (2, None)):
        with pytest.raises(ValueError, match="accepted"):
            ring(*wrong)
