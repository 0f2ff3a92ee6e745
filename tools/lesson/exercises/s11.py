"""Exercises of notebooks/s11_triton_v1."""

from __future__ import annotations

import numpy as np

from stages.common import interpreter  # noqa: F401  before Triton: without a GPU, kernels are interpreted
from tools.lesson.answers import exercise

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:  # there are no builds for this system; the lesson does not run there either
    triton = None


def tile(program, B, row_stride, d, seqlen):
    """offsets [B, d] of the program's block, in elements, and its mask [B, 1]: which of its rows there are."""
    rows = program * B + np.arange(B)
    return rows[:, None] * row_stride + np.arange(d)[None, :], rows[:, None] < seqlen


def _tile_without_stride(program, B, row_stride, d, seqlen):
    rows = program * B + np.arange(B)
    return rows[:, None] * d + np.arange(d)[None, :], rows[:, None] < seqlen


def _tile_off_by_one(program, B, row_stride, d, seqlen):
    rows = program * B + np.arange(B)
    return rows[:, None] * row_stride + np.arange(d)[None, :], rows[:, None] <= seqlen


def _tile_of_rows(program, B, row_stride, d, seqlen):
    rows = program + np.arange(B)
    return rows[:, None] * row_stride + np.arange(d)[None, :], rows[:, None] < seqlen


@exercise(
    "s11.tile",
    solution=tile,
    wrong=(_tile_without_stride, _tile_off_by_one, _tile_of_rows),
    hints=(
        "First the rows, [B]: program p owns p·B to p·B + B - 1. np.arange(B) counts inside the block.",
        "rows[:, None] * row_stride + np.arange(d)[None, :]: a column of rows and a row of columns make a block.",
    ),
)
def check_tile(answer) -> str:
    for program, B, row_stride, d, seqlen in ((0, 4, 8, 8, 10), (2, 4, 8, 8, 10), (1, 16, 96, 32, 17), (1, 4, 6, 2, 8)):
        want = tile(program, B, row_stride, d, seqlen)
        asked = f"program {program}, B {B}, row_stride {row_stride}, d {d}, seqlen {seqlen}"
        for name, got, right in zip(("offsets", "mask"), answer(program, B, row_stride, d, seqlen), want, strict=True):
            if np.shape(got) != right.shape:
                return f"{asked}: {name} has the shape {np.shape(got)}, and not {right.shape}"
            if not np.array_equal(got, right):
                return f"{asked}: {name} are other numbers" if name == "offsets" else f"{asked}: {name} is another"
    return ""


@exercise(
    "s11.visit",
    solution=lambda Br, d: Br * (2 * d) + 2 * Br * (4 * d + 4 + 4),
    wrong=(
        lambda Br, d: Br * (2 * d) + Br * (4 * d + 4 + 4),
        lambda Br, d: 2 * Br * (4 * d + 4 + 4),
        lambda Br, d: Br * (2 * d) + 2 * Br * (2 * d + 4 + 4),
        lambda Br, d: Br * (2 * d) + 2 * Br * 4 * d,
    ),
    hints=(
        "Of a row: Q is read, 2 bytes an element. O, m and l are read and written.",
        "O has d elements of 4 bytes a row, m and l one of 4 bytes each; all three travel twice.",
    ),
)
def check_visit(answer) -> str:
    for Br, d in ((64, 128), (64, 64), (16, 32)):
        want, got = Br * (2 * d) + 2 * Br * (4 * d + 8), answer(Br, d)
        if got != want:
            return f"Br {Br}, d {d}: {got:,} bytes; it is another number"
    return ""


def visits(Br, seqlen_q, seqlen_k):
    """Visits of Q tiles in one head under a causal mask; Q tiles have Br rows, K/V tiles Br keys."""
    first_rows = [max(j - (seqlen_k - seqlen_q), 0) // Br * Br for j in range(0, seqlen_k, Br)]
    return sum(-(-(seqlen_q - first) // Br) for first in first_rows)


@exercise(
    "s11.visits",
    solution=visits,
    wrong=(
        lambda Br, seqlen_q, seqlen_k: -(-seqlen_q // Br) * -(-seqlen_k // Br),
        lambda Br, seqlen_q, seqlen_k: -(-seqlen_q // Br) * -(-seqlen_k // Br) // 2,
        lambda Br, seqlen_q, seqlen_k: (seqlen_q // Br) * (seqlen_q // Br + 1) // 2,
        lambda Br, seqlen_q, seqlen_k: sum(
            (seqlen_q - max(j - (seqlen_k - seqlen_q), 0) // Br * Br) // Br for j in range(0, seqlen_k, Br)
        ),
        lambda Br, seqlen_q, seqlen_k: sum(-(-(seqlen_q - j // Br * Br) // Br) for j in range(0, seqlen_k, Br)),
    ),
    hints=(
        "Start with equal lengths, four tiles each. Which Q tiles does the first K/V tile visit, and which the last?",
        "For every K/V tile, first_row says where the walk over Q begins; it ends at seqlen_q. How many tiles is that, "
        "the last one perhaps not full?",
        "shift is seqlen_k - seqlen_q. Add up -(-(seqlen_q - first_row) // Br) over j in range(0, seqlen_k, Br); "
        "-(-a // b) is a / b, rounded up.",
    ),
)
def check_visits(answer) -> str:
    for Br, seqlen_q, seqlen_k in ((64, 256, 256), (64, 256, 448), (64, 448, 256), (16, 100, 130), (16, 130, 100)):
        visible = np.arange(seqlen_k)[None, :] <= np.arange(seqlen_q)[:, None] + seqlen_k - seqlen_q
        tiles = [visible[i : i + Br, j : j + Br].any() for j in range(0, seqlen_k, Br) for i in range(0, seqlen_q, Br)]
        want, got = int(sum(tiles)), answer(Br, seqlen_q, seqlen_k)
        if got != want:
            return f"Br {Br}, {seqlen_q} queries, {seqlen_k} keys: {got}, and not {want}"
    return ""


if triton is not None:
    # fmt: off
    @triton.jit
    def logsumexp_kernel(S, L, row_stride, columns, B: tl.constexpr):
        """Program i: L[i] = log Σ exp(S[i, :]) of one row, B elements at a time."""
        i = tl.program_id(0)
        m = tl.full([], float("-inf"), dtype=tl.float32)
        l = tl.zeros([], dtype=tl.float32)  # noqa: E741
        for first in range(0, columns, B):
            at = first + tl.arange(0, B)
            s = tl.load(S + i * row_stride + at, mask=at < columns, other=float("-inf"))
            m_new = tl.maximum(m, tl.max(s, axis=0))
            l = tl.exp(m - m_new) * l + tl.sum(tl.exp(s - m_new), axis=0)  # noqa: E741
            m = m_new
        tl.store(L + i, m + tl.log(l))

    @triton.jit
    def _zeros_behind_the_mask(S, L, row_stride, columns, B: tl.constexpr):
        i = tl.program_id(0)
        m = tl.full([], float("-inf"), dtype=tl.float32)
        l = tl.zeros([], dtype=tl.float32)  # noqa: E741
        for first in range(0, columns, B):
            at = first + tl.arange(0, B)
            s = tl.load(S + i * row_stride + at, mask=at < columns, other=0.0)
            m_new = tl.maximum(m, tl.max(s, axis=0))
            l = tl.exp(m - m_new) * l + tl.sum(tl.exp(s - m_new), axis=0)  # noqa: E741
            m = m_new
        tl.store(L + i, m + tl.log(l))

    @triton.jit
    def _one_block(S, L, row_stride, columns, B: tl.constexpr):
        i = tl.program_id(0)
        at = tl.arange(0, B)
        s = tl.load(S + i * row_stride + at, mask=at < columns, other=float("-inf"))
        m = tl.max(s, axis=0)
        tl.store(L + i, m + tl.log(tl.sum(tl.exp(s - m), axis=0)))

    @triton.jit
    def _no_maximum(S, L, row_stride, columns, B: tl.constexpr):
        i = tl.program_id(0)
        l = tl.zeros([], dtype=tl.float32)  # noqa: E741
        for first in range(0, columns, B):
            at = first + tl.arange(0, B)
            s = tl.load(S + i * row_stride + at, mask=at < columns, other=float("-inf"))
            l = l + tl.sum(tl.exp(s), axis=0)  # noqa: E741
        tl.store(L + i, tl.log(l))

    @triton.jit
    def _first_maximum(S, L, row_stride, columns, B: tl.constexpr):
        i = tl.program_id(0)
        at = tl.arange(0, B)
        m = tl.max(tl.load(S + i * row_stride + at, mask=at < columns, other=float("-inf")), axis=0)
        l = tl.zeros([], dtype=tl.float32)  # noqa: E741
        for first in range(0, columns, B):
            at = first + tl.arange(0, B)
            s = tl.load(S + i * row_stride + at, mask=at < columns, other=float("-inf"))
            l = l + tl.sum(tl.exp(s - m), axis=0)  # noqa: E741
        tl.store(L + i, m + tl.log(l))

    @triton.jit
    def _every_program_the_first_row(S, L, row_stride, columns, B: tl.constexpr):
        i = tl.program_id(0)
        m = tl.full([], float("-inf"), dtype=tl.float32)
        l = tl.zeros([], dtype=tl.float32)  # noqa: E741
        for first in range(0, columns, B):
            at = first + tl.arange(0, B)
            s = tl.load(S + at, mask=at < columns, other=float("-inf"))
            m_new = tl.maximum(m, tl.max(s, axis=0))
            l = tl.exp(m - m_new) * l + tl.sum(tl.exp(s - m_new), axis=0)  # noqa: E741
            m = m_new
        tl.store(L + i, m + tl.log(l))
    # fmt: on

    @exercise(
        "s11.logsumexp",
        solution=logsumexp_kernel,
        wrong=(_zeros_behind_the_mask, _one_block, _no_maximum, _first_maximum, _every_program_the_first_row),
        hints=(
            "i = tl.program_id(0) is the row. at = first + tl.arange(0, B) are the columns of one step of a loop "
            "`for first in range(0, columns, B)`.",
            "Behind the mask there has to be what changes neither the maximum nor the sum: other=float('-inf').",
            "Begin with m = tl.full([], float('-inf'), dtype=tl.float32), l = tl.zeros([], dtype=tl.float32). In the "
            "loop m_new, l and m are as in s02; tl.store(L + i, m + tl.log(l)) ends it.",
        ),
    )
    def check_logsumexp(answer) -> str:
        import torch

        from stages import get
        from stages.common.where import where

        device = where(get("s11")).device
        generator = torch.Generator().manual_seed(4)
        B = 8
        for rows, columns in ((3, 8), (3, 21), (1, 5), (4, 64)):
            wide = 20 * torch.randn(rows, columns + 3, generator=generator)
            wide += 200 - 1200 * (torch.arange(rows)[:, None] % 2)  # exp overflows in even rows, and is 0 in odd ones
            wide += 100 * (torch.arange(columns + 3) // B)  # and each piece is far above the one before
            S = wide.to(device)[:, :columns]  # a row lies columns + 3 behind the one before
            want = torch.logsumexp(S, dim=1)
            L = torch.full((rows,), float("nan"), device=device)
            with np.errstate(all="ignore"):  # the interpreter is NumPy's; the verdict says what became of it
                answer[(rows,)](S, L, S.stride(0), columns, B=B)
            off = (L - want).abs().max().item()
            if not off < 1e-4 + 1e-6 * want.abs().max().item():
                what = "NaN, or not written" if np.isnan(off) else f"off by {off:.2g}"
                return f"{rows} rows of {columns} columns, {B} at a time: L is {what}"
        return ""
