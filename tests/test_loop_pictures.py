"""What the lessons of s24 to s28 count and draw of the kernels' loops: against the machine code, the emulator and
hand-made sequences.
"""

from __future__ import annotations

import io

import pytest
from PIL import Image

from tools.emulator import missing
from tools.lesson import instructions, listings, planted
from tools.lesson.live import emulated
from tools.lesson.shown import png
from tools.pictures import b_operand, causal_tiles, fragment_pipeline, machine_code, score, walk
from tools.sass import mix


def code(text: str) -> list[mix.Instruction]:
    return mix.parse("\n".join(f"/*{i:04x}*/ {line} ;" for i, line in enumerate(text.strip().splitlines())))


# ---- s24: the idea, in time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("load, mma", ((3, 2), (2, 3), (1, 1), (5, 0.5)))
@pytest.mark.parametrize("steps", (1, 2, 3, 8))
def test_two_sets_hide_the_shorter_of_load_and_products(steps, load, mma):
    one, two = (fragment_pipeline.spans(fragment_pipeline.order(stage, steps), load, mma) for stage in ("s23", "s24"))
    assert fragment_pipeline.ends(one) == steps * (load + mma)
    for made in (one, two):
        assert sorted(s.step for s in made if s.what == "mma") == list(range(steps))
    # A pair of steps takes no longer than the two trips of its fragments, or than all its products.
    assert fragment_pipeline.ends(two) <= fragment_pipeline.ends(one)
    assert fragment_pipeline.ends(two) >= load + steps * mma
    if load <= mma:
        assert fragment_pipeline.ends(two) == load + steps * mma
    elif steps > 1:
        assert fragment_pipeline.ends(two) < fragment_pipeline.ends(one)


def test_no_product_reads_registers_that_are_not_filled():
    for stage in fragment_pipeline.STAGES:
        made = fragment_pipeline.spans(fragment_pipeline.order(stage, 6))
        for product in (s for s in made if s.what == "mma"):
            (load,) = (s for s in made if s.what == "load" and s.step == product.step)
            assert load.end <= product.start and load.registers == product.registers
        for load in (s for s in made if s.what == "load"):
            for product in (s for s in made if s.what == "mma" and s.registers == load.registers):
                assert product.end <= load.start or product.step >= load.step
    with pytest.raises(ValueError, match="reads set 1, which does not hold step 1"):
        fragment_pipeline.spans([("load", 0, 0), ("load", 1, 0), ("mma", 1, 1)])
    with pytest.raises(ValueError, match="s23, s24"):
        fragment_pipeline.order("s25", 3)
    assert "s23, one set of registers: 5 steps end at 25" in fragment_pipeline.draw().alt


# ---- how early fragments are loaded -----------------------------------------------------------------------------


def test_products_between_a_load_and_its_first_use():
    """R0 to R3 are one fragment, used at once and then again; R8 to R11 one that waits for two products, one of whose
    registers a move has carried on."""
    loop = code(
        """
        LDSM.16.M88.4 R0, [R100]
        LDSM.16.MT88.4 R8, [R100+0x800]
        HMMA.16816.F32.BF16 R40, R20.reuse, R0, RZ
        HMMA.16816.F32.BF16 R44, R20, R2, RZ
        IMAD.MOV.U32 R60, RZ, RZ, R8
        MOV R61, R10
        HMMA.16816.F32.BF16 R40, R24, R60, R40
        """
    )
    assert machine_code.ahead(loop) == [0, 2] and machine_code.ahead(loop, "A") == []
    assert [machine_code.kind(one) for one in loop] == ["load"] * 2 + ["product"] * 2 + ["move"] * 2 + ["product"]
    as_a = code(
        """
        LDSM.16.M88.4 R20, [R100]
        LDSM.16.M88.4 R0, [R101]
        HMMA.16816.F32.BF16 R40, R4, R0, RZ
        HMMA.16816.F32.BF16 R44, R20, R2, RZ
        """
    )
    assert machine_code.ahead(as_a) == [0] and machine_code.ahead(as_a, "A") == [1]
    written_over = code(
        """
        LDSM.16.M88.4 R0, [R100]
        FMUL R0, R50, R51
        FMUL R1, R50, R51
        HMMA.16816.F32.BF16 R40, R20, R0, RZ
        """
    )
    assert machine_code.ahead(written_over) == []


@pytest.mark.parametrize("name", listings.WANTED)
def test_every_fragment_of_a_loop_is_used_in_it(name):
    assert len(machine_code.ahead(listings.loop(name))) == listings.WANTED[name].loads["KV"]


def soon(name: str) -> int:
    """Fragments that are loaded with fewer than two products before the first that reads them."""
    return sum(products < 2 for products in machine_code.ahead(listings.loop(name)))


def test_s34_loads_ahead_what_s33_did_not():
    """With 32 rows a warp, where registers are short. Under the mask the compiler had done it by itself."""
    assert soon("s33_128x64") > 8 and soon("s34_128x64") <= 2
    assert soon("s33_128x64_causal") <= 2 and soon("s34_128x64_causal") <= 2
    of_q = [machine_code.ahead(listings.loop(name), "A") for name in ("s33_128x64", "s34_128x64")]
    assert [len(early) for early in of_q] == [16, 16]
    assert [sum(products < 2 for products in early) for early in of_q] == [11, 2]
    for name in ("s33_128x64", "s34_128x64"):
        assert listings.registers(name) == 255


def test_the_picture_has_a_cell_for_every_instruction():
    fig = machine_code.draw("s23", "s24")
    for ax, name in zip(fig.axes, ("s23", "s24"), strict=True):
        assert len(ax.patches) == len(listings.loop(name))
        assert f"{len(listings.loop(name)):,}" in ax.get_title(loc="left")
    assert "64 loads of fragments among 128 products" in fig.alt
    assert Image.open(io.BytesIO(png(fig))).width <= 830
    with pytest.raises(ValueError, match="names is empty"):
        machine_code.draw()


# ---- s25: what the branch jumps over, and what a Q tile does at each K/V tile ------------------------------------


def test_the_mask_is_what_is_jumped_over():
    """32 scores a thread: 32 selects, 16 comparisons, since two rows share a key; and no product."""
    for name in ("s25", "s26", "s27", "s28", "s29"):
        over = mix.families(mix.count(listings.jumped_over(name)))
        assert (over["FSEL"], over["ISETP"], over["HMMA"]) == (32, 16, 0), name
    for name in ("s24", "s25_no_branch", "s29_no_branch"):
        assert listings.jumped_over(name) == []


MARKS = {  # a place in the kernel that is passed where the step is taken, and how often for a tile and warp
    walk.MASK: ("if (block >= full_blocks) {", 1),
    walk.RESCALE: ("l[r] *= alpha;", 2),
}


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.parametrize("step", MARKS, ids=lambda step: walk.STEPS[step])
@pytest.mark.parametrize("stage", ("s25", "s26"))
def test_the_walk_is_the_kernels(stage, step):
    place, often = MARKS[step]
    marked = planted(stage, (place, f"{place} __syncwarp();"))
    for seqlen_q, seqlen_k in ((200, 264), (200, 150), (64, 330)):
        case = {"headdim": 64, "seqlen_q": seqlen_q, "seqlen_k": seqlen_k, "nheads": 1, "nheads_k": 1}
        passed, before = (emulated(one, **case).report.total("instructions", "__syncwarp") for one in (marked, stage))
        rows = causal_tiles.classes(seqlen_q, seqlen_k, 64, 64)
        taken = sum(int(walk.walk(stage, tiles)[1][step].sum()) for tiles in rows)
        assert passed - before == 4 * often * taken


def test_the_walks_differ_in_what_the_stages_say():
    tiles = causal_tiles.classes(384, 440, 64, 64)[4]
    for stage, order in (("s24", [0, 1, 2, 3, 4, 5]), ("s25", [5, 4, 3, 2, 1, 0]), ("s26", [5, 4, 3, 2, 1, 0])):
        walked, done = walk.walk(stage, tiles)
        assert list(walked) == order
        assert done[walk.CLEAR].sum() == (stage != "s26")
    assert walk.walk("s26", tiles[:0])[1].shape == (len(walk.STEPS), 0)
    with pytest.raises(ValueError, match="s24, s25, s26"):
        walk.walk("s99", tiles)


def test_the_picture_of_the_walk_says_what_it_shows():
    assert "s24 walks tiles 0, 1, 2, 3, 4, 5, masks 6" in walk.draw("s24", "s26").alt
    assert "s26 walks tiles 5, 4, 3, 2, 1, 0, masks 2, rescales at 5, does not clear O" in walk.draw("s26").alt
    with pytest.raises(ValueError, match="tile is 6; accepted: 0 to 5"):
        walk.draw("s24", tile=6)
    with pytest.raises(ValueError, match="stages is empty"):
        walk.draw()


# ---- s27: what a score takes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("headdim", (64, 128))
@pytest.mark.parametrize("stage", score.CHAINS)
def test_the_instructions_of_a_tile_are_those_of_the_machine_code(stage, headdim, causal):
    reckoned = score.of_a_tile(stage, headdim)
    assert reckoned == instructions(stage, *reckoned, headdim=headdim, causal=causal)


def test_the_picture_of_a_score_says_what_it_shows():
    assert "s26, 6.5 a score: FMUL × scale" in score.draw("s26", "s27").alt
    with pytest.raises(ValueError, match="s26, s27"):
        score.draw("s25")
    with pytest.raises(ValueError, match="stages is empty"):
        score.draw()


# ---- s28: moves ------------------------------------------------------------------------------------------------


def test_moves_of_a_fragment_are_counted():
    """Two registers are brought together elsewhere and a third moves up; a move of something else is none of them."""
    loop = code(
        """
        LDSM.16.M88.4 R76, [R198]
        LDSM.16.MT88.4 R80, [R198]
        IMAD.MOV.U32 R160, RZ, RZ, R76
        IMAD.MOV.U32 R161, RZ, RZ, R78
        MOV R78, R77
        MOV R90, R91
        HMMA.16816.F32.BF16 R160, R72, R160, RZ
        MOV R92, R160
        HMMA.16816.F32.BF16 R152, R72, R78, RZ
        """
    )
    assert machine_code.carried(loop) == {"K": [3], "V": [0]}


def test_s28_moves_no_fragment_and_s27_those_of_k_at_least_three_times():
    """A swap of two registers takes three moves, and so does copying one pair out for the other to close up."""
    before, after = (machine_code.carried(listings.loop(name)) for name in ("s27", "s28"))
    assert min(before["K"]) >= 3 and set(before["V"]) == {0}
    assert set(after["K"] + after["V"]) == {0}
    saved = instructions("s27", "MOV")["MOV"] - instructions("s28", "MOV")["MOV"]
    assert saved == sum(before["K"])


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.parametrize("stage", b_operand.PATTERNS)
def test_the_lane_pattern_is_the_kernels(stage):
    """The addresses of the first ldmatrix of K, swizzle and all."""
    d = 64
    case = {"headdim": d, "seqlen_q": 64, "seqlen_k": 64, "nheads": 1, "nheads_k": 1, "causal": False}
    traces = emulated(stage, {"trace": 1000}, **case).report.traces
    loads = [one for one in traces if one.op == "ldmatrix" and one.warp == 0]
    first_of_k = next(one for one in loads if one.addresses[0] >= 64 * d * 2)  # behind Q's tile
    for lane, address in enumerate(first_of_k.addresses):
        key, chunk = b_operand.PATTERNS[stage](lane)
        assert address == 64 * d * 2 + key * d * 2 + (chunk ^ key % 8) * 16


def test_operands_lie_side_by_side_or_not():
    assert b_operand.operands(b_operand.as_q) == [(0, 2), (1, 3)] and not b_operand.needs_no_move(b_operand.as_q)
    pattern = b_operand.neighbours
    assert b_operand.operands(pattern) == [(0, 1), (2, 3)] and b_operand.needs_no_move(pattern)
    swapped = lambda lane: (pattern(lane)[0], 1 - pattern(lane)[1])  # noqa: E731
    assert not b_operand.needs_no_move(swapped), "the left half has to come first"
    with pytest.raises(ValueError, match="lanes 0 to 7 name"):
        b_operand.matrices(lambda lane: (lane // 2, lane % 2))
    with pytest.raises(ValueError, match="each of the four once"):
        b_operand.matrices(lambda lane: (lane % 8, 0))
    assert "s27: keys 0 to 7 in registers 0 and 2" in b_operand.draw().alt
    with pytest.raises(ValueError, match="s27, s28"):
        b_operand.draw("s26", "s28")
