"""Exercises of notebooks/s30_static_stride."""

from __future__ import annotations

import math

import torch

from tools.lesson.answers import exercise

# ---- which kernel ---------------------------------------------------------------------------------------------------


def strides(q, k, v):
    """Q_ROW and KV_ROW, or None where K's and V's rows are differently far apart."""
    if k.stride(1) != v.stride(1):
        return None
    return q.stride(1), k.stride(1)


def _of_shapes(q, k, v):
    return q.shape[2] * q.shape[3], k.shape[2] * k.shape[3]


def _unchecked(q, k, v):
    return q.stride(1), k.stride(1)


def _one_for_all(q, k, v):
    return (q.stride(1), q.stride(1)) if q.stride(1) == k.stride(1) == v.stride(1) else None


def _swapped(q, k, v):
    return (k.stride(1), q.stride(1)) if k.stride(1) == v.stride(1) else None


def _tensors(layout: str):
    """Q, K and V [batch, seqlen, nheads, headdim] of one kind."""
    q, k, v = (torch.empty(2, 6, nheads, 64) for nheads in (4, 2, 2))
    if layout == "heads first":
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    elif layout == "packed":
        q, k, v = torch.empty(2, 6, 12, 64).chunk(3, dim=2)
    elif layout == "V in a wider tensor":
        v = torch.empty(2, 6, 4, 64)[:, :, :2]
    return q, k, v


@exercise(
    "s30.strides",
    solution=strides,
    wrong=(_of_shapes, _unchecked, _one_for_all, _swapped),
    hints=(
        "The kernel has one number for Q, and one for K and V together. Are K's and V's always the same?",
        "q.stride(1) is the distance from one position to the next, in elements. The shape does not say it: a tensor "
        "may be a part of a wider one.",
    ),
)
def check_strides(answer) -> str:
    for layout in ("contiguous, grouped heads", "heads first", "packed", "V in a wider tensor"):
        tensors = _tensors(layout)
        want, got = strides(*tensors), answer(*tensors)
        if got != want:
            return f"{layout}: {got}, where the kernel {f'for {want} fits' if want else 'for one stride does not fit'}"
    return ""


# ---- when it pays ---------------------------------------------------------------------------------------------------


def calls(compile_s, general_ms, special_ms):
    """Calls that the time of one compilation has to be spread over."""
    return math.ceil(compile_s * 1000 / (general_ms - special_ms)) if special_ms < general_ms else None


@exercise(
    "s30.calls",
    solution=calls,
    wrong=(
        lambda compile_s, general_ms, special_ms: math.ceil(compile_s * 1000 / special_ms),
        lambda compile_s, general_ms, special_ms: math.ceil(compile_s / (general_ms - special_ms)),
        lambda compile_s, general_ms, special_ms: math.floor(compile_s * 1000 / (general_ms - special_ms)),
    ),
    hints=(
        "One call saves general_ms - special_ms. Compiling costs compile_s seconds, 1000 times as many milliseconds.",
        "Round up: after the last of these calls the saving is at least what was spent. And what if nothing is saved?",
    ),
)
def check_calls(answer) -> str:
    for compile_s, general_ms, special_ms in ((2.0, 1.75, 1.5), (3.0, 1.0, 0.99), (1.0, 2.0, 1.25), (2.0, 1.5, 1.5)):
        want, got = calls(compile_s, general_ms, special_ms), answer(compile_s, general_ms, special_ms)
        if got != want and not (got and want and abs(got - want) <= 1e-9 * want):
            return f"{compile_s} s to compile, {general_ms} ms and {special_ms} ms a call: {got}; it is another number"
    return ""
