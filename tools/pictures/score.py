"""What a score goes through on its way from Q Kᵀ to P V, instruction by instruction: s26, and s27 with one constant.

    draw("s26", "s27")

`of_a_tile` counts what this makes for a thread and K/V tile; the suite compares it with the machine code.
"""

from __future__ import annotations

from dataclasses import dataclass

from tools.pictures import canvas
from tools.plot import style

ROWS = 2  # of a thread, which has a quarter of each


@dataclass(frozen=True)
class Op:
    """An instruction; does: what it does to the score; each: how many for one score."""

    name: str
    does: str
    each: float = 1.0


CHAINS = {
    "s26": (
        Op("FMUL", "× scale"),
        Op("FMNMX", "max into m"),
        Op("FADD", "− m"),
        Op("FMUL", "× log₂e"),
        Op("MUFU", "exp2"),
        Op("FADD", "add to l"),
        Op("F2FP", "to 16 bits", 0.5),
    ),
    "s27": (
        Op("FMNMX", "max into m"),
        Op("FFMA", "× c − m·c"),
        Op("MUFU", "exp2"),
        Op("FADD", "add to l"),
        Op("F2FP", "to 16 bits", 0.5),
    ),
}
LOOKS = {"FMUL": 3, "FADD": 5, "FFMA": 2, "FMNMX": 0, "MUFU": 1, "F2FP": 4}


def of_a_score(stage: str) -> dict[str, float]:
    """{instruction: how many of it a score takes}. Raises ValueError for a stage other than s26 and s27."""
    if stage not in CHAINS:
        raise ValueError(f"stage is {stage!r}; accepted: {', '.join(CHAINS)}")
    counts: dict[str, float] = {}
    for op in CHAINS[stage]:
        counts[op.name] = counts.get(op.name, 0) + op.each
    return counts


def of_a_tile(stage: str, headdim: int, keys: int = 64) -> dict[str, int]:
    """{instruction: how many of it a thread executes for a K/V tile}: what its scores take, and what its rows take.

    A warp has 16 rows, so that a thread has keys / 2 scores and headdim / 2 elements of O, in two rows. Raises as
    `of_a_score`.
    """
    scores = 16 * keys // 32
    counts = {"FFMA": 0} | {name: round(each * scores) for name, each in of_a_score(stage).items()}
    counts["FMUL"] = counts.get("FMUL", 0) + 16 * headdim // 32  # O, rescaled
    for name in ("FADD", "FMUL", "MUFU"):  # alpha = exp2((m - m_new) × constant)
        counts[name] += ROWS
    counts["FMNMX"] += 2 * ROWS  # the maximum over the four lanes of a row, by two shuffles
    # l × alpha and the first exponential to be added are one instruction.
    counts["FFMA"] += ROWS
    counts["FADD"] -= ROWS
    if stage == "s27":
        counts["FMUL"] += ROWS  # m·c
    return counts


@canvas.in_style
def draw(*stages: str) -> canvas.Picture:
    """The chain of each stage in a line. Raises ValueError for none, and as `of_a_score`."""
    if not stages:
        raise ValueError(f"stages is empty; accepted: {', '.join(CHAINS)}")
    sums = {stage: sum(of_a_score(stage).values()) for stage in stages}
    longest = max(len(CHAINS[stage]) for stage in stages)
    fig = canvas.picture(
        0.85 + 1.05 * len(stages),
        "What a score goes through, from Q Kᵀ to P V",
        "A box is an instruction of every thread for every score. Packing takes two scores at a time.",
        "Chains of instructions. "
        + "; ".join(
            f"{stage}, {sums[stage]:g} a score: " + ", ".join(f"{op.name} {op.does}" for op in CHAINS[stage])
            for stage in stages
        )
        + ".",
    )
    for ax, stage in zip(fig.subplots(len(stages), 1, squeeze=False)[:, 0], stages):
        canvas.bare(ax)
        ax.set_xlim(-0.05, 1.12 * longest)
        ax.set_ylim(1.05, -0.05)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_title(f"{stage}: {sums[stage]:g} instructions a score", loc="left", fontsize=10)
        for i, op in enumerate(CHAINS[stage]):
            x = 1.12 * i
            colour = canvas.tint(style.COLOURS[LOOKS[op.name]], 0.6)
            canvas.cell(ax, x, 0.1, f"{op.name}\n{op.does}", colour=colour, size=(0.94, 0.8), fontsize=8.5)
            if i + 1 < len(CHAINS[stage]):
                ax.annotate(
                    "", (x + 1.12, 0.5), (x + 0.94, 0.5), arrowprops={"arrowstyle": "->", "linewidth": 1.0}, zorder=5
                )
    return fig
