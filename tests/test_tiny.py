"""Kernels of a few lines, written in a lesson and run in the emulator; and who owns what, as the lessons draw it."""

from __future__ import annotations

import numpy as np
import pytest

from stages import get
from tests.test_ptx import index_c
from tools import lesson
from tools.emulator import missing
from tools.lesson.pieces import LessonError
from tools.lesson.tiny import by_line, tiny
from tools.pictures import ownership

needs_compiler = pytest.mark.skipif(missing() is not None, reason=str(missing()))

REVERSE = """
__global__ void reverse(const u32* x, u32* y) {
  extern __shared__ __align__(128) unsigned char smem[];
  const u32 at = shared_address(smem);
  st_shared(at + 4 * threadIdx.x, ld_global(&x[threadIdx.x]));
  __syncthreads();
  st_global(&y[threadIdx.x], ld_shared(at + 4 * (63 - threadIdx.x)));
}
"""


def reverse(source=REVERSE, **changes):
    arrays = {"x": np.arange(64, dtype=np.uint32), "y": np.zeros(64, np.uint32)} | changes
    return tiny(source, block=64, shared_bytes=256, **arrays), arrays["y"]


@needs_compiler
def test_a_tiny_kernel_writes_its_arrays_and_says_what_it_did():
    ran, y = reverse()
    assert np.array_equal(y, np.arange(64)[::-1])
    assert ran.clean
    rows = [line for line in ran.markdown.splitlines() if line.startswith("| 6: `st_global(&y")]
    assert [row.split(" | ")[1:3] for row in rows] == [["ld.shared", "2"], ["st.global", "2"]]


@needs_compiler
def test_findings_name_the_lines_of_the_lesson():
    ran, _ = reverse(REVERSE.replace("  __syncthreads();\n", ""))
    assert not ran.clean
    assert "race: kernel.cu:4: write" in ran.markdown
    assert "race: kernel.cu:5: read" in ran.markdown


@needs_compiler
def test_what_does_not_compile_says_so_without_folders():
    ran, _ = reverse(REVERSE.replace("  __syncthreads();", "  synchronise();"))
    assert not ran.clean and ran.report is None
    assert "kernel.cu:5" in ran.text and "synchronise" in ran.text
    assert "/kernel.cu" not in ran.text


@needs_compiler
def test_inputs_cannot_be_written():
    ran, _ = reverse(REVERSE.replace("st_global(&y[", "st_global((u32*)&x["))
    assert "read-only" in ran.text


@pytest.mark.parametrize(
    "source, arrays, says",
    (
        (REVERSE, {"z": np.zeros(1)}, "takes x, y"),
        (REVERSE, {"x": [1, 2]}, "x is list"),
        (REVERSE, {"x": np.arange(128, dtype=np.uint32)[::2]}, "x is ndarray"),
        ("void reverse() {}", {}, "has 0 functions"),
        (REVERSE.replace("u32* y", "int n"), {}, "'int n'"),
    ),
)
@needs_compiler
def test_what_does_not_fit_together_is_an_error(source, arrays, says):
    with pytest.raises(LessonError, match=says):
        reverse(source, **arrays)


@needs_compiler
def test_counters_by_line():
    fields = {"headdim": 64, "seqlen_q": 64, "seqlen_k": 64, "nheads": 1, "nheads_k": 1, "causal": False}
    rows = by_line("s20", "ldmatrix", **fields).markdown.splitlines()[4:]
    assert [row.split(" | ")[1:] for row in rows] == [
        ["ldmatrix", "16", "64", "512 |"],
        ["ldmatrix", "64", "256", "2048 |"],
    ]
    assert "K_frag" in rows[1]


def test_the_lessons_have_both():
    assert lesson.tiny is tiny and lesson.by_line is by_line


def test_a_solution_in_cuda_is_shown_as_code():
    shown = lesson.solution("s20.quad_sum").markdown
    assert shown.startswith("```cpp\n__global__ void quad_sum(") and shown.endswith("}\n```")


# ---- who owns what --------------------------------------------------------------------------------------------------


def test_owners_are_those_of_the_accumulators():
    """Every element of a block's tile has one owner, and that is where mma.m16n8k16 puts it."""
    for row in range(64):
        for key in range(64):
            one = ownership.owner(row, key)
            assert (one.block, one.tile, one.warp, one.accumulator) == (0, 0, row // 16, key // 8)
            assert index_c(one.lane, one.register) == (row % 16, key % 8)
    far = ownership.owner(137, 130)
    assert (far.block, far.tile) == (2, 2)
    tiles = get("s20").tiles
    assert (ownership.BR, ownership.BC, ownership.WARPS) == (tiles["Br"], tiles["Bc"], tiles["num_warps"])


def test_ownership_is_drawn():
    fig = ownership.draw(lane=7)
    assert "Lane 7 holds row 1 column 6, row 1 column 7, row 9 column 6, row 9 column 7" in fig.alt
    for wrong in (lambda: ownership.draw(lane=32), lambda: ownership.owner(-1, 0)):
        with pytest.raises(ValueError, match="accepted"):
            wrong()
