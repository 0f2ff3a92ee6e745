"""What the main loops of two stages consist of: machine instructions by family, as docs/results/sass has them.

Counts are static, of one warp and one turn of the loop. Where two stages' tiles differ, so does what a turn does: `per`
relates them to the products, which are what a turn is for.
"""

from __future__ import annotations

from dataclasses import dataclass

from stages import get
from tools import results
from tools.pictures import canvas
from tools.plot import style
from tools.sass import mix, records


@dataclass(frozen=True)
class Mix:
    """One stage's main loop. families: {name: instructions}, without those that it has none of; total: all of them."""

    stage: str
    total: int
    registers: int
    families: dict[str, int]

    @property
    def products(self) -> int:
        """Tensor-core instructions of a turn of the loop."""
        return self.families.get("HMMA", 0) + self.families.get("HGMMA", 0)


def of_stage(
    stage: str, *, arch: str = "90a", dtype: str = "bfloat16", headdim: int = 128, causal: bool = False
) -> Mix:  # fmt: skip
    """From the stage's record. Raises NoData where nothing is recorded for it, UnknownStage for another stage."""
    made = get(stage)
    path = records.path_of(made)
    if not path.exists():
        raise results.NoData(
            f"no instructions are recorded of {made.name}; `python -m tools.sass --record` counts them"
        )
    found = records.find(
        [records.load(path)], made.name, arch=arch, dtype=dtype, headdim=headdim, causal=causal
    )  # fmt: skip
    families = {name: n for name, n in mix.families(found["loop"]).items() if n}
    return Mix(made.name, found["loop"]["total"], found["registers"], families)


def side_by_side(a: Mix, b: Mix, per: str = "turn") -> dict[str, tuple[float, float]]:
    """{family: (of a, of b)}, those that either has, the products first. per: "turn" of the loop, or "product".

    Raises ValueError for another `per`, or where there are no products to relate to.
    """
    if per not in ("turn", "product"):
        raise ValueError(f"per is {per!r}; accepted: turn, product")
    if per == "product" and not (a.products and b.products):
        raise ValueError("per is 'product'; accepted: only turn, for one of the loops has none")
    over = (a.products, b.products) if per == "product" else (1, 1)
    names = [name for name in (*mix.FAMILIES, mix.OTHER) if name in a.families or name in b.families]
    return {name: (a.families.get(name, 0) / over[0], b.families.get(name, 0) / over[1]) for name in names}


@canvas.in_style
def draw(
    first: str, second: str, *, per: str | None = None, arch: str = "90a", dtype: str = "bfloat16", headdim: int = 128,
    causal: bool = False,
) -> canvas.Picture:  # fmt: skip
    """Two bars a family, the differences written beside them. per: see `side_by_side`; default: "turn" where both do as
    many products a turn, else "product". Raises as `of_stage` and `side_by_side`."""
    a, b = (of_stage(name, arch=arch, dtype=dtype, headdim=headdim, causal=causal) for name in (first, second))
    if per is None:
        per = "turn" if a.products == b.products else "product"
    rows = side_by_side(a, b, per)
    unit = "instructions a turn of the loop" if per == "turn" else "instructions for each tensor-core product"
    labels = [style.label(m.stage) for m in (a, b)]
    fig = canvas.picture(
        1.55 + 0.27 * len(rows),
        f"The main loop: {labels[0]} and {labels[1]}",
        f"sm_{arch}, {dtype}, head dim {headdim}, {'causal' if causal else 'not causal'}. "
        f"A turn: {a.total} and {b.total} instructions, {_pair(a.products, b.products)} of them products; "
        f"registers: {a.registers} and {b.registers}.",
        f"Pairs of bars, {unit}, by family: "
        + ", ".join(f"{name} {_number(x)} and {_number(y)}" for name, (x, y) in rows.items())
        + ".",
    )
    ax = fig.subplots()
    most = max(max(pair) for pair in rows.values())
    looks = ((canvas.tint(style.COLOURS[0], 0.75), "////"), (style.COLOURS[1], ""))
    for y, (x, other) in enumerate(rows.values()):
        for value, offset, (colour, hatch) in zip((x, other), (-0.2, 0.2), looks, strict=True):
            ax.barh(
                y + offset, value, height=0.38, color=colour, hatch=hatch, edgecolor="black", linewidth=0.4, zorder=2
            )
        same = _number(x) == _number(other)
        said = _number(x) if same else f"{_number(x)} → {_number(other)}"
        ax.text(
            max(x, other) + 0.012 * most, y, said, va="center", fontsize=8.5, fontweight="normal" if same else "bold"
        )
    ax.set_yticks(range(len(rows)), [_named(name) for name in rows], fontsize=8.5)
    ax.set_ylim(len(rows) - 0.45, -0.55)
    ax.set_xlim(0, 1.16 * most)
    ax.set_xlabel(unit)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    handles = [canvas.Rectangle((0, 0), 1, 1, facecolor=c, hatch=h, edgecolor="black", linewidth=0.4) for c, h in looks]
    ax.legend(handles, labels, loc="lower right", frameon=True, facecolor="white", edgecolor="none", framealpha=1)
    return fig


def _named(family: str) -> str:
    return f"{family} ({mix.SAYS[family]})" if family in mix.SAYS else family


def _number(x: float) -> str:
    return f"{x:.0f}" if x == int(x) else f"{x:.3g}"


def _pair(x: int, y: int) -> str:
    return f"{x}" if x == y else f"{x} and {y}"
