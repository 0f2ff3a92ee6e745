"""What a Q tile does at each of its K/V tiles, in the order of its walk: s24, s25 (masks where there is something to
hide, backwards) and s26 (nothing to clear, and nothing to rescale at the first).

    draw("s24", "s25")
"""

from __future__ import annotations

import numpy as np

from tools.pictures import canvas, causal_tiles
from tools.plot import style

STEPS = ("clear O, m and l", "S = Q Kᵀ", "mask", "new maximum m", "rescale O and l", "P = exp(S − m), l", "O += P V")
CLEAR, MASK, RESCALE = 0, 2, 4
STAGES = {
    "s24": "forwards, every tile alike",
    "s25": "backwards, masks only where a row misses a key",
    "s26": "the first tile has nothing before it",
}


def walk(stage: str, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order, done): the K/V tiles in the order of the walk, and [steps, tiles of the walk] which steps are taken.

    tiles: the classes of one Q tile's K/V tiles, a row of causal_tiles.classes. Before the walk, O, m and l are cleared
    once: at its first tile here. Raises ValueError for a stage other than STAGES.
    """
    if stage not in STAGES:
        raise ValueError(f"stage is {stage!r}; accepted: {', '.join(STAGES)}")
    order = np.flatnonzero(tiles != causal_tiles.SKIPPED)
    if stage != "s24":
        order = order[::-1]
    done = np.ones((len(STEPS), len(order)), bool)
    done[CLEAR] = False
    if len(order):
        done[CLEAR, 0] = stage != "s26"
        done[RESCALE, 0] = stage != "s26"
    if stage != "s24":
        done[MASK] = tiles[order] == causal_tiles.MASKED
    return order, done


@canvas.in_style
def draw(
    *stages: str, seqlen_q: int = 384, seqlen_k: int = 440, tile: int = 4, Br: int = 64, Bc: int = 64
) -> canvas.Picture:
    """The walks of a causal Q tile, number `tile`, of these stages one below the other.

    Raises ValueError for no stage, an unknown one, and a tile that there is not.
    """
    if not stages:
        raise ValueError(f"stages is empty; accepted: {', '.join(STAGES)}")
    made = causal_tiles.classes(seqlen_q, seqlen_k, Br, Bc)
    if tile not in range(len(made)):
        raise ValueError(f"tile is {tile}; accepted: 0 to {len(made) - 1}")
    walks = {stage: walk(stage, made[tile]) for stage in stages}
    first = tile * Br
    fig = canvas.picture(
        1.25 + len(stages) * (0.68 + 0.235 * len(STEPS)),
        "What is done at each K/V tile",
        f"Q tile {tile}, queries {first} to {min(first + Br, seqlen_q) - 1} of {seqlen_q}, causal, {seqlen_k} keys, in "
        "the order of the walk. Dark: done. Empty: left out.",
        "Grids of steps by K/V tiles. "
        + "; ".join(
            f"{stage} walks tiles {', '.join(map(str, order))}, masks {int(done[MASK].sum())}, rescales at "
            f"{int(done[RESCALE].sum())}, {'clears' if done[CLEAR].any() else 'does not clear'} O"
            for stage, (order, done) in walks.items()
        )
        + ".",
    )
    for ax, (stage, (order, done)) in zip(fig.subplots(len(stages), 1, squeeze=False)[:, 0], walks.items()):
        canvas.cells(ax, len(STEPS), len(order))
        changed = {CLEAR, MASK, RESCALE}
        for (step, at), there in np.ndenumerate(done):
            strong = style.COLOURS[0] if step in changed else canvas.tint(style.COLOURS[0], 0.45)
            canvas.cell(ax, at, step, colour=strong if there else canvas.PALE)
        names = [f"tile {j}\n{causal_tiles.NAMES[int(made[tile, j])]}" for j in order]
        ax.set_xticks(np.arange(len(order)) + 0.5, names, fontsize=8)
        ax.set_yticks(np.arange(len(STEPS)) + 0.5, STEPS, fontsize=8.5)
        ax.set_title(f"{stage}: {STAGES[stage]}", loc="left", fontsize=10)
    return fig
