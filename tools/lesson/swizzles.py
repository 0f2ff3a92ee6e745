"""Layouts of a tile in shared memory, a reader's own among them, in s20's kernel: whether it still computes the right
thing, and what the banks say."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np

from stages import Stage, get
from tools.lesson.answers import untouched
from tools.lesson.live import emulated, planted
from tools.lesson.shown import Shown, table

PLAIN = "return row * (d * 2) + chunk * 16;"
ONE_TILE = {"seqlen_q": 64, "seqlen_k": 64, "nheads": 1, "nheads_k": 1, "causal": False}


def with_swizzle(f: Callable[[int, int], int], headdim: int = 128, label: str = "") -> Stage:
    """s20 with chunk c of row r in place f(r, c) of its row, for one head dim: the kernel looks f up in a table.

    Raises ValueError where f loses a chunk.
    """
    from tools.pictures.bank_conflicts import swizzle_table

    places = swizzle_table(f, headdim, rows=get("s20").tiles["Br"])
    body = ", ".join("{" + ", ".join(map(str, row)) + "}" for row in places.tolist())
    start = "// Where chunk `chunk` (eight elements"
    table = f"const unsigned char PLACE[{len(places)}][{places.shape[1]}] = {{{body}}};\n\n"
    return planted(
        "s20",
        (PLAIN, "return row * (d * 2) + PLACE[row][chunk] * 16;"),
        (start, table + start),
        label=label or getattr(f, "__name__", "f"),
    )


def padded(chunks: int = 1) -> Stage:
    """s20 with rows that lie so many unused chunks apart."""
    row = f"(d * 2 + {chunks * 16})"
    rows = sum(get("s20").tiles[name] for name in ("Br", "Bc", "Bc"))
    return planted(
        "s20",
        (PLAIN, f"return row * {row} + chunk * 16;"),
        ("Q_smem + Br * d * 2;", f"Q_smem + Br * {row};"),
        ("K_smem + Bc * d * 2;", f"K_smem + Bc * {row};"),
        label=f"padded by {chunks}",
        shared_bytes=lambda headdim: rows * (headdim * 2 + chunks * 16),
    )


def try_layouts(headdim: int = 128, **layouts: Callable[[int, int], int] | Stage) -> Shown:
    """What becomes of s20 with each of these layouts, a swizzle f(row, chunk) or a planted stage, for one tile."""
    rows = []
    for name, layout in layouts.items():
        said = name.replace("_", " ")
        if not isinstance(layout, Stage):
            if untouched(layout):
                rows.append([said, "no answer yet", "–", "–", "–"])
                continue
            try:
                layout = with_swizzle(layout, headdim)
            except Exception as problem:  # a reader's code may raise anything
                rows.append([said, f"{problem}", "–", "–", "–"])
                continue
        run = emulated(layout, headdim=headdim, **ONE_TILE)
        counts = run.report.as_profiled()
        stores = counts["shared_store_conflicts"] + counts["cp_async_conflicts"]
        ways = max(site.ways for site in run.report.sites if site.op.startswith("ldmatrix"))
        rows.append([said, "right" if run.ok else "WRONG", ways, counts["ldmatrix_conflicts"], stores])
    header = ["layout", "result", "wavefronts of an ldmatrix pass", "conflicts of ldmatrix", "of stores and copies"]
    return table(header, rows, text_columns=2)


def holds(f: Callable[[int, int], int], headdim: int) -> np.ndarray:
    """[headdim / 8]: wavefronts of the ldmatrix pass over each chunk of eight rows, the worst of a tile's.

    Raises ValueError where f loses a chunk.
    """
    from tools.pictures.bank_conflicts import bank_groups, ways_of_columns

    groups = bank_groups(f, headdim, rows=64)
    return np.max([ways_of_columns(groups[first:]) for first in range(0, 64, 8)], axis=0)


def bytes_of(stage: Stage, headdim: int) -> int:
    """Shared memory of a block of the stage or of one that `planted` made."""
    host = importlib.import_module(get(stage.name).entry_module)
    return (getattr(stage, "shared_bytes", None) or host.shared_bytes)(headdim)
