"""What one K/V tile costs a multiprocessor of sm_90, counted: products, exponentials, copies, other arithmetic; and
what the sum is where they follow each other (s12), and where the copies travel meanwhile (s13).

Rates a cycle: dense 16-bit products with float32 sums, from NVIDIA's H100 data sheet over its clock; exponentials and
float32 operations, CUDA C++ Programming Guide, table of arithmetic throughput; from the L2 cache, 64 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from tools.pictures import canvas
from tools.plot import style

PRODUCTS, EXPONENTIALS, BYTES, OTHER = 4096, 16, 64, 128  # FLOPs, exp2, bytes, float32 operations a cycle
# Operations a score besides the exponential, counted in the kernels: s12 scales, masks, takes the maximum, subtracts,
# multiplies by log2(e), sums, rounds to 16 bits; s13's full tiles take the maximum, multiply and add, sum, round.
OPERATIONS = {"s12": 7, "s13": 4}
PARTS = ("copies", "products", "exponentials", "other arithmetic")


@dataclass(frozen=True)
class Budget:
    """Cycles of one tile by part. hidden: the copies travel while the rest is computed."""

    copies: float
    products: float
    exponentials: float
    other: float
    hidden: bool

    @property
    def work(self) -> float:
        return self.products + self.exponentials + self.other

    @property
    def total(self) -> float:
        return max(self.work, self.copies) if self.hidden else self.work + self.copies

    @property
    def tensor(self) -> float:
        """The share of the time in which the tensor cores work."""
        return self.products / self.total


def budget(stage: str, d: int, Br: int = 64, Bc: int = 64, itemsize: int = 2) -> Budget:
    """Of a tile of Br queries and Bc keys, head dim d. Raises ValueError for a stage other than s12 and s13."""
    if stage not in OPERATIONS:
        raise ValueError(f"stage is {stage!r}; accepted: {', '.join(OPERATIONS)}")
    for name, size in {"d": d, "Br": Br, "Bc": Bc, "itemsize": itemsize}.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; accepted: 1 or more")
    scores = Br * Bc
    return Budget(
        copies=2 * Bc * d * itemsize / BYTES,
        products=2 * 2 * scores * d / PRODUCTS,
        exponentials=scores / EXPONENTIALS,
        other=(OPERATIONS[stage] * scores + Br * d) / OTHER,  # Br·d: O times alpha
        hidden=stage == "s13",
    )


LOOKS = dict(zip(PARTS, ((4, "...."), (0, ""), (1, "////"), (2, "\\\\\\\\")), strict=True))


@canvas.in_style
def draw(headdims: tuple[int, ...] = (64, 128)) -> canvas.Picture:
    """A bar a stage and head dim; where the copies are hidden they run along below the work."""
    made = {(d, stage): budget(stage, d) for d in headdims for stage in OPERATIONS}
    fig = canvas.picture(
        1.5 + 0.52 * len(made),
        "A budget of one K/V tile of 64 × 64",
        "Cycles of a multiprocessor (sm_90), counted. s12: one after the other. s13: copies travel meanwhile.",
        alt(made),
        "A model of one block alone on a multiprocessor. In truth several share it and fill each other's gaps.",
    )
    ax = fig.subplots()
    longest = max(one.total for one in made.values())
    for y, one in enumerate(made.values()):
        values = dict(zip(PARTS, (one.copies, one.products, one.exponentials, one.other), strict=True))
        left = 0.0
        for part, cycles in values.items():
            colour, hatch = LOOKS[part]
            below = one.hidden and part == "copies"
            ax.barh(
                y + (0.33 if below else 0), cycles, left=0 if below else left, height=0.18 if below else 0.46,
                color=canvas.tint(style.COLOURS[colour], 0.55), edgecolor="black", linewidth=0.6, hatch=hatch, zorder=2,
                label=part if y == 0 else None,
            )  # fmt: skip
            left += 0 if below else cycles
        text = f"{one.total:.0f}; tensor cores {one.tensor:.0%}"
        ax.text(one.total + 0.012 * longest, y, text, va="center", fontsize=9)
    ax.set_yticks(range(len(made)), [f"{stage}, d{d}" for d, stage in made])
    ax.set_ylim(len(made) - 0.4, -0.5)
    ax.set_xlim(0, 1.3 * longest)
    ax.set_xlabel("cycles")
    ax.grid(axis="y", visible=False)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=4, frameon=False, handlelength=1.6)
    return fig


def alt(made: dict[tuple[int, str], Budget]) -> str:
    said = "; ".join(
        f"{stage} at head dim {d}: {one.total:.0f} cycles, tensor cores at work {one.tensor:.0%}"
        for (d, stage), one in made.items()
    )
    return f"Bars of the cycles that one K/V tile takes, by part. {said}."
