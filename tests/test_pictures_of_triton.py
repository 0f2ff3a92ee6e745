"""The pictures of the Triton lessons: blocks and masks, the loop swap, the budget of a tile."""

from __future__ import annotations

import pytest

from tests.test_pictures import texts
from tools.bench.shapes import Shape
from tools.pictures import blocks, budget, loop_swap
from tools.plot import traffic
from tools.results import NoData

# ---- blocks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seqlen, B", [(10, 4), (8, 4), (1, 4), (5, 1)])
def test_blocks_cover_every_element_once(seqlen, B):
    d, stride = 3, 5
    seen = []
    for program in range(blocks.programs(seqlen, B)):
        there = blocks.mask(program, B, seqlen)
        assert there.any(), "a program without rows"
        seen += blocks.offsets(program, B, stride, d)[there].ravel().tolist()
    assert sorted(seen) == [row * stride + x for row in range(seqlen) for x in range(d)]


def test_blocks_draw_offsets_and_refuse():
    shown = texts(blocks.draw(10, 4, 4))
    assert {"0", "39", "47", "mask 1 1 0 0", "program 2: rows 8 to 11"} <= shown and "48" not in shown
    with pytest.raises(ValueError, match="B is 0"):
        blocks.draw(10, 4, 0)
    with pytest.raises(ValueError, match="at most 16"):
        blocks.draw(17, 4, 4)


# ---- loop_swap ---------------------------------------------------------------------------------------------


def test_the_loop_swap_is_drawn_from_the_newest_record_of_each_length():
    def record(name, seqlen, ms, run):
        shape = {"batch": 16384 // seqlen, "nheads": 16, "nheads_k": 16, "seqlen_q": seqlen, "seqlen_k": seqlen}
        return shape | {
            "name": name, "headdim": 128, "causal": False, "mode": "fwd", "dtype": "bfloat16", "ms_median": ms,
            "ms_samples": [ms], "device": "A GPU", "run": run, "kind": "stage", "where": "gpu", "tflops": 1.0,
        }  # fmt: skip

    records = [
        record("s11_triton_v1", 1024, 2.0, "2026-01-02"), record("s11_triton_v1", 512, 1.0, "2026-01-02"),
        record("s11_triton_v1", 1024, 9.0, "2026-01-01"), record("s12_triton_v2", 512, 0.5, "2026-01-02"),
        record("s12_triton_v2", 512, 0.7, "2026-01-02") | {"headdim": 64},
    ]  # fmt: skip
    profile = {"name": "s11_triton_v1", "headdim": 128, "causal": False, "dtype": "bfloat16", "seqlen": 1024}
    v1, v2 = loop_swap.series(records, [profile | {"counters": {"dram_read": 3.0, "dram_write": 4.0}}])
    assert v1.lengths == (512, 1024) and v1.ms == (1.0, 2.0) and v1.programs == (512, 256)
    assert v1.moved == {1024: 7.0} and v2.moved == {}
    assert v2.lengths == (512,) and v2.ms == (0.5,) and v2.programs == (4096,)
    assert v1.asked[1] == traffic.v1_bytes(Shape(16, 1024, 1024, 16, 16, 128, False), 2, 64, 64)
    assert "s12 from length 512 to 512: 0.5 to 0.5 ms" in loop_swap.alt([v1, v2])
    with pytest.raises(NoData, match="head dim 32"):
        loop_swap.series(records, [], headdim=32)


def test_the_loop_swap_has_a_picture():
    assert {"The loop swap as the sequence grows", "programs"} <= texts(loop_swap.draw())


# ---- budget ------------------------------------------------------------------------------------------------


def test_the_budget_of_a_tile():
    s12, s13 = (budget.budget(stage, 128) for stage in ("s12", "s13"))
    # As s13's card has it: 32 KB of K and V at 64 bytes a cycle take as long as the products; exponentials half.
    assert (s12.copies, s12.products, s12.exponentials) == (512, 512, 256)
    assert s12.other == (7 * 4096 + 64 * 128) / 128 and s13.other == (4 * 4096 + 64 * 128) / 128
    assert s12.total == 512 + 512 + 256 + 288 and s13.total == 512 + 256 + 192
    assert s13.tensor == 512 / 960
    short = budget.budget("s13", 64, Br=16)  # few queries a tile: the copies take longer than the work
    assert short.total == short.copies == 256 > short.work
    half = budget.budget("s12", 64)
    assert (half.products, half.exponentials) == (256, 256)


def test_the_budget_is_drawn_and_refuses():
    assert "1568; tensor cores 33%" in texts(budget.draw())
    assert "s12 at head dim 128: 1568 cycles" in budget.draw().alt
    with pytest.raises(ValueError, match="stage is 's11'"):
        budget.budget("s11", 64)
    with pytest.raises(ValueError, match="d is 0"):
        budget.budget("s12", 0)
