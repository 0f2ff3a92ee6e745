"""How many m-tiles a fragment of K or V serves once a warp has loaded it, and what that costs in registers.

draw(Tiles(64, 64, 4, 2, True, 2), Tiles(128, 64, 4, 2, True, 2), headdim=64)
draw_registers([("s30", 128, Tiles(...)), ...])
"""

from __future__ import annotations

from collections.abc import Sequence

from stages.common.tiles import MAX_REGISTERS, Tiles
from tools.pictures import canvas
from tools.plot import style

MMA_M, MMA_N, MMA_K = 16, 8, 16
PARTS = ("O", "S", "Q", "m and l")


def work(tiles: Tiles, headdim: int) -> dict[str, int]:
    """Of a block and a K/V tile: "ldmatrix" of K and V, 16 × 16 elements each, and "mma" of both products."""
    fragments = (tiles.Bc // 16) * (headdim // 16)  # of K, and as many of V
    products = (tiles.Br // MMA_M) * (tiles.Bc // MMA_N) * (headdim // MMA_K)  # Q Kᵀ, and as many of P V
    return {"ldmatrix": 2 * fragments * tiles.num_warps, "mma": 2 * products}


def registers(tiles: Tiles, headdim: int) -> dict[str, int]:
    """A thread's registers by what they hold, of 32 bits: O and S fp32, Q two elements each."""
    rows = tiles.Br // tiles.num_warps
    q = headdim if tiles.q_in_registers else MMA_K
    return dict(zip(PARTS, (rows * headdim // 32, rows * tiles.Bc // 32, rows * q // 64, rows // 4), strict=True))


@canvas.in_style
def draw(*configurations: tuple[str, Tiles], headdim: int = 64) -> canvas.Picture:
    """A block's m-tiles, a colour a warp, against the key groups of a K tile: framed is what one ldmatrix serves."""
    counts = [work(tiles, headdim) for _, tiles in configurations]
    says = [
        f"{label}: {tiles.Br // MMA_M} m-tiles of 16 rows on {tiles.num_warps} warps, "
        f"{count['mma'] / count['ldmatrix']:g} mma for an ldmatrix"
        for (label, tiles), count in zip(configurations, counts, strict=True)
    ]
    tallest = max(tiles.Br for _, tiles in configurations) // MMA_M
    fig = canvas.picture(
        1.6 + 0.27 * tallest,
        "One fragment of K, and the rows of S that it is good for",
        f"Down: m-tiles of 16 rows of Q, a colour a warp. Across: 16 keys each. Head dim {headdim}. Framed: what the "
        "first warp multiplies by a fragment that it has loaded once.",
        "A block's part of S by m-tiles and warps. " + "; ".join(says) + ".",
    )
    for ax, (label, tiles), count in zip(fig.subplots(1, len(configurations)), configurations, counts, strict=True):
        _panel(ax, label, tiles, count, tallest)
    return fig


def _panel(ax, label: str, tiles: Tiles, count: dict[str, int], tallest: int) -> None:
    m_tiles, groups, each = tiles.Br // MMA_M, tiles.Bc // 16, tiles.Br // MMA_M // tiles.num_warps
    canvas.cells(ax, tallest + 0.5, groups + 1.7)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(f"{label}: {count['mma'] / count['ldmatrix']:g} mma for an ldmatrix", loc="left", fontsize=9.5)
    for row in range(m_tiles):
        warp = row // each
        fill = canvas.tint(style.COLOURS[warp], 0.55)
        for group in range(groups):
            canvas.cell(ax, group + 1.6, row, colour=fill)
        if row % each == 0:
            ax.text(1.45, row + each / 2, f"warp {warp}", ha="right", va="center", fontsize=8.5)
    canvas.cell(ax, 2.6, 0, colour="none", size=(1, each), frame=True)


@canvas.in_style
def draw_registers(configurations: Sequence[tuple[str, int, Tiles]]) -> canvas.Picture:
    """A bar a configuration (label, head dim, tiles): what a thread has to hold, before any address or fragment."""
    bills = [registers(tiles, headdim) for _, headdim, tiles in configurations]
    sums = [sum(bill.values()) for bill in bills]
    alt = "Registers that a thread needs for O, S, Q, m and l: " + "; ".join(
        f"{label}, head dim {headdim}, {total}" for (label, headdim, _), total in zip(configurations, sums, strict=True)
    )
    fig = canvas.picture(
        1.35 + 0.36 * len(configurations),
        "What a thread has to hold in registers",
        "A lower bound: addresses, fragments of K and V and everything in between come on top.",
        f"{alt}; {MAX_REGISTERS} are the most that a thread may have.",
    )
    ax = fig.subplots()
    for y, (bill, total) in enumerate(zip(bills, sums, strict=True)):
        left = 0
        for (part, held), colour in zip(bill.items(), style.COLOURS, strict=False):
            ax.barh(y, held, left=left, color=canvas.tint(colour, 0.75), edgecolor="white", height=0.7)
            if held >= 18:
                ax.text(left + held / 2, y, f"{part} {held}", ha="center", va="center", fontsize=8.5)
            left += held
        ax.text(total + 3, y, str(total), va="center", fontsize=9)
    ax.axvline(MAX_REGISTERS, color="black", linewidth=1.2, linestyle=(0, (6, 2)))
    ax.text(MAX_REGISTERS + 2, -0.72, f"{MAX_REGISTERS}: the most", fontsize=8.5, va="center")
    ax.set_xlim(0, 1.2 * max(MAX_REGISTERS, *sums))
    ax.set_ylim(len(bills) - 0.45, -1.0)
    ax.set_yticks(range(len(bills)), [f"{label}, d{headdim}" for label, headdim, _ in configurations])
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("registers a thread")
    return fig
