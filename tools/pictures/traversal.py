"""Who visits which (Q tile, K/V tile) pair when, and what that moves: FlashAttention-1's order (s11) and -2's (s12).

v1, Dao et al. 2022, algorithm 1: one program a head, K/V tiles outside, Q tiles inside; O, m and l of a Q tile go to
global memory and back at each visit. v2, Dao 2023, algorithm 1: a program a Q tile, which walks K and V.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tools.bench.shapes import Shape
from tools.pictures import canvas
from tools.plot import style

ORDERS = {"v1": "FlashAttention-1 (s11): K/V tiles outside", "v2": "FlashAttention-2 (s12): Q tiles outside"}
STATE = 4  # bytes of an element of O, m and l on the way: float32


@dataclass(frozen=True)
class Visit:
    """A program's `step`-th pair, from 0: Q tile i, K/V tile j."""

    program: int
    step: int
    i: int
    j: int


def visits(order: str, seqlen_q: int, seqlen_k: int, *, Br: int, Bc: int, causal: bool = False) -> list[Visit]:
    """The pairs of one head in the order in which each program comes to them; causal: bottom-right, skipped tiles out.

    Raises ValueError for an order other than ORDERS, or sizes below 1.
    """
    _accepted(order, seqlen_q=seqlen_q, seqlen_k=seqlen_k, Br=Br, Bc=Bc)
    return list(_walk(order, seqlen_q, seqlen_k, Br, Bc, causal))


def _walk(order: str, seqlen_q: int, seqlen_k: int, Br: int, Bc: int, causal: bool) -> Iterator[Visit]:
    shift = seqlen_k - seqlen_q  # key j is visible to query i iff j <= i + shift
    if order == "v1":
        step = 0
        for j, first_key in enumerate(range(0, seqlen_k, Bc)):
            first_row = max(first_key - shift, 0) // Br * Br if causal else 0
            for row in range(first_row, seqlen_q, Br):
                yield Visit(0, step, row // Br, j)
                step += 1
        return
    for i, row in enumerate(range(0, seqlen_q, Br)):
        last_key = min(seqlen_k, row + Br + shift) if causal else seqlen_k
        for step, first_key in enumerate(range(0, last_key, Bc)):
            yield Visit(i, step, i, first_key // Bc)


def moved(order: str, shape: Shape, itemsize: int, *, Br: int, Bc: int) -> dict[str, int]:
    """Bytes between global memory and the chip, by what they are, counted by walking the loops as the kernels do.

    shape: of the whole call; itemsize: bytes of an element of Q, K, V and O. Keys: "Q", "K and V", "O, m, l", which is
    the state that v1 keeps in memory, and "O and LSE", the result. Tiles are moved whole, as the closed form of
    tools/plot/traffic.py has it.
    """
    _accepted(order, Br=Br, Bc=Bc)
    row, state = shape.headdim * itemsize, (shape.headdim + 2) * STATE
    bytes_of = dict.fromkeys(("Q", "K and V", "O, m, l", "O and LSE"), 0)
    walk = visits(order, shape.seqlen_q, shape.seqlen_k, Br=Br, Bc=Bc, causal=shape.causal)
    if order == "v1":
        bytes_of["K and V"] += 2 * shape.seqlen_k * row
        bytes_of["O, m, l"] += shape.seqlen_q * state  # zeroed
        for _ in walk:
            bytes_of["Q"] += Br * row
            bytes_of["O, m, l"] += 2 * Br * state
        bytes_of["O, m, l"] += shape.seqlen_q * state  # read for the last time
    else:
        bytes_of["Q"] += shape.seqlen_q * row
        for _ in walk:
            bytes_of["K and V"] += 2 * Bc * row
    bytes_of["O and LSE"] += shape.seqlen_q * (row + STATE)
    return {what: shape.batch * shape.nheads * n for what, n in bytes_of.items()}


def _accepted(order: str, **sizes: int) -> None:
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}; accepted: {', '.join(ORDERS)}")
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; accepted: 1 or more")


MOST_TILES = 8  # across: more numbers cannot be read
HATCHES = {"Q": "", "K and V": "////", "O, m, l": "....", "O and LSE": "\\\\\\\\"}


@canvas.in_style
def draw(
    seqlen_q: int = 384, seqlen_k: int = 384, *, Br: int = 64, Bc: int = 64, causal: bool = False, headdim: int = 128,
    itemsize: int = 2, upto: int | None = None,
) -> canvas.Picture:  # fmt: skip
    """Two grids of tile pairs with the number of the visit, coloured by program, and the bytes of one head below.

    upto: each program is shown after so many visits (default: at its end); the bytes are those of the whole walk.
    Raises ValueError for more than MOST_TILES tiles either way.
    """
    rows, columns = -(-seqlen_q // Br), -(-seqlen_k // Bc)
    if max(rows, columns) > MOST_TILES:
        raise ValueError(f"there are {rows} × {columns} tiles; accepted: at most {MOST_TILES} either way")
    walks = {o: visits(o, seqlen_q, seqlen_k, Br=Br, Bc=Bc, causal=causal) for o in ORDERS}
    shape = Shape(1, seqlen_q, seqlen_k, 1, 1, headdim, causal)
    bytes_of = {o: moved(o, shape, itemsize, Br=Br, Bc=Bc) for o in ORDERS}
    height = 0.33 * rows
    fig = canvas.picture(
        height + 3.75,
        "The order of the tiles, and what it moves",
        f"One head, {seqlen_q} queries, {seqlen_k} keys{', causal' if causal else ''}, tiles of {Br} × {Bc}. Number: "
        "the "
        "program's visit. Colour: the program. Programs run side by side, as many as the chip has room for.",
        alt(walks, bytes_of),
        f"Bytes that the kernels ask for, head dim {headdim}, {itemsize} bytes an element, the state O, m, l in "
        "float32. "
        "v2 reads K and V once a Q tile, but its programs want the same keys at the same time, and the L2 cache "
        "serves them.",
    )
    grids, bars = fig.subfigures(2, 1, height_ratios=[height + 0.75, 1.35])
    for ax, (order, walk) in zip(grids.subplots(1, 2), walks.items(), strict=True):
        _grid(ax, order, walk, rows, columns, len(walk) if upto is None else upto)
    _bars(bars.subplots(), bytes_of)
    return fig


def _grid(ax, order: str, walk: list[Visit], rows: int, columns: int, upto: int) -> None:
    canvas.cells(ax, rows, columns)
    there = {(visit.i, visit.j): visit for visit in walk}
    for i in range(rows):
        for j in range(columns):
            visit = there.get((i, j))
            if visit is None:
                canvas.cell(ax, j, i, "–", colour=canvas.PALE, color="#777777")
                continue
            if visit.step >= upto:
                canvas.cell(ax, j, i, colour=canvas.PALE)
                continue
            colour = canvas.tint(style.COLOURS[visit.program % len(style.COLOURS)], 0.45)
            canvas.cell(ax, j, i, str(visit.step + 1), colour=colour, fontsize=9)
    ax.set_title(ORDERS[order], loc="left", fontsize=9.5, fontweight="bold", pad=20)
    ax.set_xticks([j + 0.5 for j in range(columns)], [str(j) for j in range(columns)])
    ax.xaxis.tick_top()
    ax.set_ylabel("Q tile" if order == "v1" else "Q tile = program")
    ax.set_xlabel("K/V tile across; " + ("one program for all" if order == "v1" else f"{rows} programs, one a row"))
    ax.set_yticks([i + 0.5 for i in range(rows)], [str(i) for i in range(rows)])


def _bars(ax, bytes_of: dict[str, dict[str, int]]) -> None:
    largest = max(sum(parts.values()) for parts in bytes_of.values()) / 2**10
    for y, parts in enumerate(bytes_of.values()):
        left = 0.0
        for k, (what, n) in enumerate((what, n / 2**10) for what, n in parts.items()):
            colour = canvas.tint(style.COLOURS[(0, 1, 4, 2)[k]], 0.55)
            ax.barh(y, n, left=left, height=0.6, color=colour, edgecolor="black", linewidth=0.6, hatch=HATCHES[what],
                    label=what if y == 0 else None, zorder=2)  # fmt: skip
            left += n
        ax.text(left + 0.01 * largest, y, f"{left:,.0f} KiB", va="center", fontsize=9)
    ax.set_yticks(range(len(bytes_of)), list(bytes_of))
    ax.set_ylim(len(bytes_of) - 0.45, -0.55)
    ax.set_xlim(0, 1.17 * largest)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel("KiB asked of global memory")
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.34), ncols=4, frameon=False, handlelength=1.6)


def alt(walks: dict[str, list[Visit]], bytes_of: dict[str, dict[str, int]]) -> str:
    v1, v2 = (sum(bytes_of[order].values()) / 2**10 for order in ("v1", "v2"))
    programs = len({visit.program for visit in walks["v2"]})
    return (
        "Two grids of Q tiles down and K/V tiles across with the numbers of the visits: version 1 goes down the "
        "columns, one "
        f"program for all {len(walks['v1'])} pairs; version 2 goes along the rows, {programs} programs, one a row. "
        "Below, bars "
        f"of the bytes moved: {v1:,.0f} KiB and {v2:,.0f} KiB."
    )
