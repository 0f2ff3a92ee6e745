"""How often s33 rescales: the votes of its warps, counted on scores, against the bound on a maximum's growth.

A warp keeps a reference m a row and rescales l and O of all its rows when, in a K/V tile, the maximum of one of them
has grown past its m by more than the bound, in powers of two. The first tile that a block walks sets m and is not
counted.
"""
# ruff: noqa: E741  the papers' symbols: l for a row's sum

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reference.activations_io import load_activations
from reference.inputs import make_inputs
from stages import get
from tools.pictures import canvas
from tools.plot import style

LOG2_E = 1.4426950408889634
MAX_GROWTH = 8.0  # s33's bound: P is then at most 2⁸
S33 = get("s33").tiles  # rows of a Q tile at head dim 64, and at less, which is padded
FAMILIES = {"normal": "normal draws", "activations": "real activations", "ramp": "logits that grow from key to key"}
THRESHOLDS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)


@dataclass(frozen=True)
class Votes:
    """What happened, a row a warp and a column a K/V tile in the order of the walk.

    counted: tiles that the block walks, but for its first; rescaled: those of them in which the warp voted for it;
    largest: log2 of the largest P in it, -inf where all is masked. m [rows]: each row's reference after the last tile.
    """

    counted: np.ndarray
    rescaled: np.ndarray
    largest: np.ndarray
    m: np.ndarray

    @property
    def share(self) -> float:
        """Rescaled ÷ counted; NaN where nothing is counted."""
        return float(self.rescaled.sum() / self.counted.sum()) if self.counted.any() else float("nan")


def votes(
    S: np.ndarray, threshold: float = MAX_GROWTH, *, Br: int = S33["Br"], Bc: int = S33["Bc"],
    num_warps: int = S33["num_warps"],
    backwards: bool = True,
) -> Votes:  # fmt: skip
    """Walk the scores of one head as s33 does.

    S [seqlen_q, seqlen_k]: softmax_scale · Q Kᵀ, -inf where masked. threshold: the bound, log2 of P's largest value;
    0 rescales whenever a maximum grows. Each of `num_warps` warps owns Br / num_warps rows of a Q tile in succession.
    backwards: from the last K/V tile to the first, as from s25 on. Raises ValueError for sizes that do not fit.
    """
    S = np.asarray(S, np.float64) * LOG2_E
    if S.ndim != 2 or 0 in S.shape:
        raise ValueError(f"S is {S.shape}; accepted: [seqlen_q, seqlen_k], neither of them 0")
    if Bc < 1 or Br < 1 or num_warps < 1 or Br % num_warps:
        raise ValueError(f"Br is {Br}, Bc {Bc}, num_warps {num_warps}; accepted: 1 or more, Br a multiple of num_warps")
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold!r}; accepted: 0 or more")
    tiles = [S[:, j : j + Bc] for j in range(0, S.shape[1], Bc)]
    maxima = np.stack([tile.max(axis=1) for tile in (tiles[::-1] if backwards else tiles)], axis=1)
    rows, blocks, warps = len(S), -(-len(S) // Br), -(-len(S) // (Br // num_warps))
    maxima = np.pad(maxima, ((0, blocks * Br - rows), (0, 0)), constant_values=-np.inf)
    seen = ~np.isneginf(maxima)
    walked = seen.reshape(blocks, Br, -1).any(axis=1).repeat(num_warps, axis=0)  # else a tile is skipped by the block
    made = _walk(maxima.reshape(blocks * num_warps, Br // num_warps, -1), walked, threshold)
    counted, rescaled, largest = (part[:warps] for part in made[:3])  # not of warps that have no row at all
    return Votes(counted, rescaled, largest, made[3].ravel()[:rows])


def _walk(maxima: np.ndarray, walked: np.ndarray, threshold: float) -> tuple[np.ndarray, ...]:
    """All warps' walks at once: maxima [warps, rows of each, tiles], walked [warps, tiles] -> what Votes holds."""
    m = np.full(maxima.shape[:2], -np.inf)
    counted, rescaled = np.zeros((2, *walked.shape), bool)
    largest = np.full(walked.shape, -np.inf)
    begun = np.zeros(len(walked), bool)
    for t in range(walked.shape[1]):
        m_new = np.maximum(m, maxima[:, :, t])
        with np.errstate(invalid="ignore"):  # -inf - -inf is NaN, and no growth
            grew = (m_new - m > threshold).any(axis=1)
        counted[:, t] = walked[:, t] & begun
        rescaled[:, t] = counted[:, t] & grew
        takes = rescaled[:, t] | (walked[:, t] & ~begun)
        m = np.where(takes[:, None], m_new, m)
        begun |= walked[:, t]
        with np.errstate(invalid="ignore"):
            P = maxima[:, :, t] - m
        largest[:, t] = np.where(np.isnan(P), -np.inf, P).max(axis=1)
    return counted, rescaled, largest, m


def scores(family: str = "normal", *, seqlen: int = 1024, headdim: int = 64, nheads: int = 2, seed: int = 0):
    """One S [seqlen_q, seqlen_k] a head, float32, not masked, of a family of reference/inputs.py.

    "activations": of a real model, all layers and heads, whose sizes are their own. Raises ValueError for another name.
    """
    if family == "activations":
        layers = [(a.q, a.k, a.softmax_scale) for a in load_activations()]
    else:
        shape = {"batch": 1, "seqlen_q": seqlen, "seqlen_k": seqlen, "nheads": nheads, "nheads_k": nheads}
        q, k, _ = make_inputs(family, headdim=headdim, seed=seed, **shape)
        layers = [(q.numpy(), k.numpy(), headdim**-0.5)]
    made = []
    for q, k, scale in layers:
        q, k = q.astype(np.float32), k.astype(np.float32)
        group = q.shape[2] // k.shape[2]
        made += [scale * (q[b, :, h] @ k[b, :, h // group].T) for b in range(len(q)) for h in range(q.shape[2])]
    return made


def shares(heads: Sequence[np.ndarray], thresholds: Sequence[float] = THRESHOLDS, **tiles) -> list[float]:
    """Of all warps and tiles of all heads, the share that is rescaled, for each threshold. tiles: as `votes` takes."""
    made = []
    for threshold in thresholds:
        each = [votes(S, threshold, **tiles) for S in heads]
        counted = sum(one.counted.sum() for one in each)
        made.append(float(sum(one.rescaled.sum() for one in each) / counted) if counted else float("nan"))
    return made


def shares_by_tile(heads: Sequence[np.ndarray], threshold: float = MAX_GROWTH, **tiles) -> list[float]:
    """The same for one threshold and each K/V tile in the order of the walk, without the first. heads: of one shape."""
    each = [votes(S, threshold, **tiles) for S in heads]
    counted, rescaled = (sum(getattr(one, what).sum(axis=0) for one in each) for what in ("counted", "rescaled"))
    return [float(r / c) for r, c in zip(rescaled, counted) if c]


LOOKS = {"normal": ("-", "o"), "activations": ((0, (5, 1.5)), "s"), "ramp": ((0, (1.5, 1.2)), "^")}


@canvas.in_style
def draw(
    families: Sequence[str] = tuple(FAMILIES), *, thresholds: Sequence[float] = THRESHOLDS, Br: int = S33["Br"],
    Bc: int = S33["Bc"], num_warps: int = S33["num_warps"], seqlen: int = 1024, headdim: int = 64,
) -> canvas.Picture:  # fmt: skip
    """Left the share of rescaled tiles against the bound; right the share tile by tile, at a bound of 0 and at s33's.

    seqlen, headdim: of the random families. Raises ValueError as `votes` and `scores`, and for an unknown family.
    """
    for family in families:
        if family not in FAMILIES:
            raise ValueError(f"families has {family!r}; accepted: {', '.join(FAMILIES)}")
    tiles = {"Br": Br, "Bc": Bc, "num_warps": num_warps}
    of = {family: scores(family, seqlen=seqlen, headdim=headdim) for family in families}
    lines = {family: shares(heads, thresholds, **tiles) for family, heads in of.items()}
    at = {family: shares(heads, (0.0, MAX_GROWTH), **tiles) for family, heads in of.items()}
    fig = canvas.picture(
        3.75,
        "How often a warp rescales",
        f"Tiles of {Br} × {Bc}, {num_warps} warps of {Br // num_warps} rows; random inputs of length {seqlen}. A "
        "bound of b: "
        "rescale when a maximum has grown by a factor of more than 2ᵇ in the exponentials.",
        "The share of K/V tiles in which a warp rescales, falling with the bound, and tile by tile. "
        + "; ".join(f"{FAMILIES[f]}: {a:.0%} at a bound of 0, {b:.0%} at {MAX_GROWTH:g}" for f, (a, b) in at.items())
        + ".",
        "Until s32 every tile is rescaled: 100 %. The first tile of a walk sets the reference and is not counted.",
    )
    left, right = fig.subplots(1, 2, sharey=True)
    for n, family in enumerate(families):
        dashes, marker = LOOKS[family]
        look = {"color": style.COLOURS[n], "linestyle": dashes, "marker": marker, "markersize": 4.5, "linewidth": 1.6}
        left.plot(thresholds, lines[family], label=FAMILIES[family], **look)
        for bound in (0.0, MAX_GROWTH):
            y = shares_by_tile(of[family], bound, **tiles)
            filled = {} if bound == 0 else {"markerfacecolor": "white"}
            right.plot(range(1, len(y) + 1), y, **look | filled)
    left.axvline(MAX_GROWTH, color="black", linewidth=1, linestyle=(0, (4, 2)), zorder=1)
    left.annotate(
        "s33", (MAX_GROWTH, 0.97), xytext=(-4, 0), textcoords="offset points", ha="right", va="top", fontsize=9
    )
    left.set_xlabel("bound b, log2")
    left.set_ylabel("share of tiles rescaled")
    left.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    left.set_ylim(-0.03, 1.03)
    left.legend(
        loc="upper right", bbox_to_anchor=(0.94, 0.93), frameon=True, edgecolor="none", framealpha=0.9, fontsize=8.5
    )
    right.set_xlabel("K/V tile of the walk, the first left out")
    right.set_title(f"filled: b = 0; hollow: b = {MAX_GROWTH:g}", loc="left", fontsize=9.5)
    right.xaxis.get_major_locator().set_params(integer=True)
    return fig
