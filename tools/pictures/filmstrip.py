"""The online softmax as a strip of frames: one K/V tile after the other, what it brings and what it makes of m, l, O.

The step is that of s02, or one of your own: `walk(Q, K, V, Bc=4, step=my_step)`.

Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018), algorithm 3.
"""
# ruff: noqa: E741  the papers' symbols: l for a row's sum, O for the output

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stages.s02_online_softmax.kernel import online_softmax_step
from tools.pictures import canvas
from tools.plot import style


@dataclass(frozen=True)
class Frame:
    """One K/V tile of a walk, float64, for Br rows.

    first_key: the tile's first; S, P [Br, Bc]: its scores, -inf where masked, and exp(S - m); m_old [Br]: the maximum
    before the tile; m, l [Br] and O [Br, d], not divided by l: after it; alpha [Br] = exp(m_old - m).
    """

    first_key: int
    S: np.ndarray
    P: np.ndarray
    m_old: np.ndarray
    alpha: np.ndarray
    m: np.ndarray
    l: np.ndarray
    O: np.ndarray

    @property
    def grew(self) -> np.ndarray:
        """[Br]: whether a maximum that there was has grown, so that what was summed before has to shrink."""
        return (self.m > self.m_old) & ~np.isneginf(self.m_old)


def walk(Q, K, V, *, Bc: int, causal: bool = False, softmax_scale=None, step: Callable = online_softmax_step):
    """A frame for every K/V tile that some row sees, in the order in which s02 walks them: all rows are one Q tile.

    Q [Br, d]; K, V [seqlen_k, d], any float dtype. causal: bottom-right, the last row sees every key.
    step(O, m, l, S, V_j) -> O, m, l: s02's, or another to be looked at.
    Raises ValueError for Bc below 1 or operands that do not fit.
    """
    Q, K, V = (np.asarray(x, np.float64) for x in (Q, K, V))
    if Bc < 1:
        raise ValueError(f"Bc is {Bc}; accepted: 1 or more")
    if Q.ndim != 2 or K.ndim != 2 or K.shape != V.shape or Q.shape[1] != K.shape[1]:
        raise ValueError(f"Q is {Q.shape}, K {K.shape}, V {V.shape}; accepted: Q [Br, d], K and V [seqlen_k, d]")
    scale = Q.shape[1] ** -0.5 if softmax_scale is None else softmax_scale
    rows, shift = np.arange(len(Q)), len(K) - len(Q)
    O, m, l = np.zeros_like(Q), np.full(len(Q), -np.inf), np.zeros(len(Q))
    frames = []
    for j in range(0, len(K), Bc):
        if causal and j > rows[-1] + shift:
            break
        keys = np.arange(j, min(j + Bc, len(K)))
        S = scale * (Q @ K[keys].T)
        if causal:
            S = np.where(keys[None, :] <= rows[:, None] + shift, S, -np.inf)
        m_old = m
        O, m, l = step(O, m, l, S, V[keys])
        m_safe = np.where(np.isneginf(m), 0, m)
        frames.append(Frame(j, S, np.exp(S - m_safe[:, None]), m_old, np.exp(m_old - m_safe), m, l, O))
    return frames


def result(frames: Sequence[Frame]) -> tuple[np.ndarray, np.ndarray]:
    """What the walk ends in: O / l [Br, d] and m + log l [Br]; 0 and -inf for a row that saw no key."""
    last = frames[-1]
    l = np.where(last.l == 0, 1, last.l)
    return last.O / l[:, None], last.m + np.log(l)


def example(rows: int = 3, keys: int = 12, d: int = 3, seed: int = 198):
    """Q [rows, d], K and V [keys, d]: small numbers, whose scores are of the size that real ones have."""
    random = np.random.default_rng(seed)
    Q, K, V = (random.normal(size=(n, d)) for n in (rows, keys, keys))
    return 1.5 * Q, K, V


MOST_TILES, MOST_COLUMNS = 5, 16  # a frame narrower than its cells' numbers cannot be read


@canvas.in_style
def draw(frames: Sequence[Frame] | None = None, *, upto: int | None = None) -> canvas.Picture:
    """A column of panels a K/V tile: S, P, then m, α and l, then O. frames: of `walk`; default: of `example`, Bc = 4.

    upto: so many tiles are shown, and the places of the others stay empty (default: all).

    Raises ValueError for so many tiles or columns that their numbers would not be readable.
    """
    if frames is None:
        frames = walk(*example(), Bc=4)
    rows, d = frames[0].O.shape
    columns = sum(max(frame.S.shape[1], 3, d) for frame in frames)
    if len(frames) > MOST_TILES or columns > MOST_COLUMNS:
        raise ValueError(
            f"frames are {len(frames)} tiles, together {columns} columns wide; accepted: at most {MOST_TILES} tiles "
            "and "
            f"{MOST_COLUMNS} columns. Take a larger Bc, fewer keys or a smaller d"
        )
    row = 0.235
    fig = canvas.picture(
        1.75 + 4 * (0.3 + row * rows),
        "Online softmax, one K/V tile after the other",
        "Framed: the row's maximum grew in this tile, so its l and O were first multiplied by α = exp(m_old − m) < 1.",
        alt(frames[:upto]),
        "P is what the tile adds to l (its row sums) and to O (times V). After the last tile the answer is O / l, "
        "and the "
        "log-sum-exp m + log l.",
    )
    axes = fig.subplots(4, len(frames), squeeze=False, height_ratios=[rows] * 4)
    low = min(frame.S[np.isfinite(frame.S)].min(initial=0) for frame in frames)
    high = max(frame.S[np.isfinite(frame.S)].max(initial=0) for frame in frames)
    largest = max(np.abs(frame.O).max() for frame in frames) or 1.0
    for t, (frame, column) in enumerate(zip(frames, axes.T, strict=True)):
        S, P, sums, O = column
        if upto is not None and t >= upto:
            for ax in column:
                ax.set_axis_off()
            continue
        last = frame.first_key + frame.S.shape[1] - 1
        S.set_title(f"tile {t}: keys {frame.first_key}–{last}", fontsize=9, fontweight="bold")
        _matrix(S, frame.S, lambda s: canvas.tint(style.COLOURS[0], 0.08 + 0.5 * (s - low) / ((high - low) or 1)))
        _matrix(P, frame.P, lambda p: canvas.tint(style.COLOURS[4], 0.05 + 0.75 * p))
        _sums(sums, frame)
        _matrix(O, frame.O, lambda o: canvas.tint(style.COLOURS[2], 0.05 + 0.6 * abs(o) / largest), frame.grew)
        for ax, name in zip(column, ("S", "P", "", "O"), strict=True):
            if t == 0 and name:
                ax.set_ylabel(name, rotation=0, labelpad=12, va="center", fontsize=11, fontweight="bold")
    return fig


def _matrix(ax, X: np.ndarray, colour, framed=None) -> None:
    canvas.cells(ax, *X.shape)
    ax.set_xticks([])
    ax.set_yticks([])
    for (r, c), x in np.ndenumerate(X):
        masked = np.isneginf(x)
        canvas.cell(ax, c, r, _text(x), colour=canvas.PALE if masked else colour(x))
    for r in np.flatnonzero(framed) if framed is not None else ():
        _frame(ax, r, X.shape[1])


def _sums(ax, frame: Frame) -> None:
    rows = len(frame.m)
    canvas.cells(ax, rows, 3)
    ax.set_xticks([0.5, 1.5, 2.5], ["m", "α", "l"], fontsize=11, fontstyle="italic", fontweight="bold")
    ax.xaxis.tick_top()
    ax.tick_params(pad=0)
    ax.set_yticks([])
    for r in range(rows):
        for c, x in enumerate((frame.m[r], frame.alpha[r], frame.l[r])):
            canvas.cell(ax, c, r, _text(x), colour=canvas.PALE)
        if frame.grew[r]:
            _frame(ax, r, 3)


def _frame(ax, row: int, columns: int) -> None:
    ax.plot(
        [0, columns, columns, 0, 0], [row, row, row + 1, row + 1, row], color="black", linewidth=1.6, zorder=5,
        clip_on=False,
    )  # fmt: skip


def _text(x: float) -> str:
    if np.isneginf(x):
        return "−∞"
    return f"{x:.2f}".replace("-", "−") if abs(x) < 9.995 else f"{x:.1f}".replace("-", "−")


def alt(frames: Sequence[Frame]) -> str:
    rows, grown = len(frames[0].m), [int(frame.grew.sum()) for frame in frames]
    said = ", ".join(str(n) for n in grown[1:]) or "none"
    return (
        f"{len(frames)} columns, one a K/V tile, for {rows} rows: scores S, exponentials P, the running maximum m, "
        "factor "
        f"alpha and sum l, and the output O. Rows whose maximum grew after the first tile: {said}."
    )
