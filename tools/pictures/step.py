"""One stage's place on the ladder: all stages at one shape, it and its parent highlighted, peers as lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages import get
from tools.bench.shapes import grid_shape
from tools.pictures import canvas, recorded
from tools.plot import charts, style


@dataclass(frozen=True)
class Rung:
    """One stage or peer at one shape."""

    name: str
    tflops: float
    kind: str  # "stage" or "peer"


def rungs(sheet: charts.Sheet, *, headdim: int = 128, causal: bool = False, seqlen: int = 4096) -> list[Rung]:
    """All that were timed at one shape of the grid: stages in the ladder's order, then peers. Raises NoData."""
    there = recorded.of_shape(sheet, headdim=headdim, causal=causal, seqlen=seqlen)
    return [Rung(name, record["tflops"], record["kind"]) for name, record in there.items()]


def gain(made: Sequence[Rung], stage: str) -> float | None:
    """How many times its parent's throughput a stage has; None where no parent is there, or a part begins."""
    record = get(stage)
    speed = {rung.name: rung.tflops for rung in made}
    if record.new_base or record.parent not in speed or record.name not in speed:
        return None
    return speed[record.name] / speed[record.parent]


PEERS = ("torch_fa2", "torch_cudnn")  # the lines that are drawn: the others would hide the bars


@canvas.in_style
def draw(
    stage: str, *, headdim: int = 128, causal: bool = False, seqlen: int = 4096, peers: Sequence[str] = PEERS,
    sheet: charts.Sheet | None = None,
) -> canvas.Picture:  # fmt: skip
    """Bars of all stages, `stage` ("s21") and its parent highlighted. sheet: of which results (default: the committed).

    Raises NoData where nothing was timed at the shape, UnknownStage for another stage.
    """
    chosen = get(stage)
    sheet = recorded.sheet() if sheet is None else sheet
    made = rungs(sheet, headdim=headdim, causal=causal, seqlen=seqlen)
    stages = [rung for rung in made if rung.kind == "stage"]
    speed = {rung.name: rung.tflops for rung in made}
    lines = [name for name in peers if name in speed]
    times = gain(made, stage)
    shape = grid_shape(seqlen, headdim, causal)
    said = f"{chosen.short} is not timed at this shape"
    if chosen.name in speed:
        said = f"{style.label(chosen.name)}: {speed[chosen.name]:.3g} TFLOP/s"
        said += f", {times:.3g}× {style.short(chosen.parent)}" if times else ""
    fig = canvas.picture(
        3.5,
        said,
        f"{sheet.subtitle}: sequence length {seqlen}, batch {shape.batch}, {shape.nheads} heads of {headdim}, "
        f"{charts._mask(causal)}.",
        f"Bars of the throughput of {len(stages)} stages, {said}. "
        + "; ".join(f"{style.label(name)} {speed[name]:.3g}" for name in lines)
        + ".",
    )
    ax = fig.subplots()
    top = 1.1 * max(speed[name] for name in [*(rung.name for rung in stages), *lines])
    for x, rung in enumerate(stages):
        mine, parent = rung.name == chosen.name, rung.name == chosen.parent
        colour = style.COLOURS[1] if mine else canvas.tint(style.COLOURS[0], 0.75) if parent else "#D9D9D9"
        ax.bar(
            x, rung.tflops, width=0.74, color=colour, edgecolor="black" if mine or parent else "none", linewidth=0.9,
            hatch="////" if parent else None, zorder=2,
        )  # fmt: skip
        ax.text(
            x, rung.tflops + 0.012 * top, f"{rung.tflops:.3g}", ha="center", va="bottom", fontsize=8, zorder=5,
            fontweight="bold" if mine else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
    ends = []
    for name in lines:
        colour, dashes, _ = style.PEER_STYLES[name]
        ax.axhline(speed[name], color=colour, linestyle=dashes, linewidth=1.2, zorder=3)
        ends.append((len(stages) - 0.5, speed[name], f"{style.short(name)} {speed[name]:.3g}", colour))
    ax.set_xlim(-0.6, len(stages) - 0.4)
    ax.set_ylim(0, top)
    ax.set_xticks(range(len(stages)), [style.short(rung.name) for rung in stages])
    for tick, rung in zip(ax.get_xticklabels(), stages, strict=True):
        tick.set_fontweight("bold" if rung.name in (chosen.name, chosen.parent) else "normal")
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="x", visible=False)
    ax.set_ylabel("TFLOP/s")
    for x, y, text, colour in ends:
        ax.annotate(
            text, (x, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8.5, color=colour,
            annotation_clip=False,
        )  # fmt: skip
    return fig
