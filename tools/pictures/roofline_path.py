"""The ladder as a path under the roofline: where each stage is, one stage and its parent highlighted.

Intensity is FLOPs a byte of memory traffic, as tools/plot/traffic.py counts it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stages import get
from tools import results
from tools.bench.shapes import Shape
from tools.pictures import canvas, recorded
from tools.plot import charts, style, traffic


@dataclass(frozen=True)
class Point:
    """A stage under the roofline. intensity: FLOPs a byte; bound: TFLOP/s that the roof allows there."""

    name: str
    intensity: float
    tflops: float
    bound: float


def path(sheet: charts.Sheet, *, headdim: int = 128, causal: bool = False, seqlen: int = 4096) -> list[Point]:
    """The stages timed at one shape of the grid, in the ladder's order. Raises NoData where there are none, or where no
    ceilings were measured."""
    peak, bandwidth = ceilings(sheet)
    made = []
    for name, record in recorded.of_shape(sheet, headdim=headdim, causal=causal, seqlen=seqlen).items():
        if record["kind"] == "stage":
            intensity = Shape.of(record).flops / traffic.memory_bytes(record)
            made.append(Point(name, intensity, record["tflops"], min(peak, bandwidth * intensity)))
    return made


def ceilings(sheet: charts.Sheet) -> tuple[float, float]:
    """(TFLOP/s of a matrix product, TB/s of a copy), measured in the run of the results. Raises NoData."""
    measured = sheet.environment.get("ceilings")
    if not measured:
        raise results.NoData(f"no ceilings were measured with the results of {sheet.device}")
    return measured["matmul_tflops"], measured["copy_tb_per_s"]


@canvas.in_style
def draw(
    stage: str, *, headdim: int = 128, causal: bool = False, seqlen: int = 4096, sheet: charts.Sheet | None = None
) -> canvas.Picture:  # fmt: skip
    """Left the roofline; right the same heights, a stage beside the other, since most have one intensity.

    Raises as `path`, and UnknownStage for another stage.
    """
    chosen = get(stage)
    sheet = recorded.sheet() if sheet is None else sheet
    points = path(sheet, headdim=headdim, causal=causal, seqlen=seqlen)
    peak, bandwidth = ceilings(sheet)
    own = next((point for point in points if point.name == chosen.name), None)
    where = f"{own.tflops:.3g} TFLOP/s, {own.tflops / own.bound:.0%} of the roof" if own else "not timed at this shape"
    fig = canvas.picture(
        3.7,
        f"Under the roofline: {style.label(chosen.name)}",
        f"{sheet.subtitle}: sequence length {seqlen}, head dim {headdim}, {charts._mask(causal)}. {chosen.short}: "
        f"{where}.",
        f"A roofline with a slope of {bandwidth:.3g} TB/s and a flat roof of {peak:.4g} TFLOP/s, and {len(points)} "
        "stages "
        f"below it; {style.label(chosen.name)}: {where}.",
        "Roof: a copy's bandwidth and a matrix product of 8192³, measured in the same run. FLOPs a byte: bytes of "
        "memory "
        "traffic as counted, the L2 cache serving what programs read at the same time.",
    )
    roof, steps = fig.subplots(1, 2, width_ratios=[1, 1.35], sharey=True)
    low, high = 0.45 * min(point.tflops for point in points), 2.0 * peak
    left = min(0.5 * min(point.intensity for point in points), 0.1 * peak / bandwidth)
    right = 3 * max(max(point.intensity for point in points), peak / bandwidth)
    roof.loglog()
    roof.plot([left, peak / bandwidth, right], [left * bandwidth, peak, peak], color="black", linewidth=1.6, zorder=1)
    roof.set_xlim(left, right)
    roof.set_ylim(low, high)
    roof.set_xlabel("FLOPs a byte of memory traffic")
    roof.set_ylabel("TFLOP/s")
    roof.annotate(
        f"{peak:.0f} TFLOP/s", (right, peak), xytext=(-2, 4), textcoords="offset points", ha="right", fontsize=8.5
    )
    middle = (left * peak / bandwidth) ** 0.5
    roof.text(
        middle / 1.25, 1.25 * middle * bandwidth, f"{bandwidth:.2f} TB/s", ha="center", va="bottom", fontsize=8.5,
        rotation=_angle(roof, left, right, low, high, fig), rotation_mode="anchor",
    )  # fmt: skip
    steps.axhline(peak, color="black", linewidth=1.6, zorder=1)
    _path(roof, [(point.intensity, point.tflops) for point in points], points, chosen)
    _path(steps, [(i, point.tflops) for i, point in enumerate(points)], points, chosen)
    heights = {point.name: point.tflops for point in points}
    for i, point in enumerate(points):
        if point.name in (chosen.name, chosen.parent):
            other = heights.get(chosen.parent if point.name == chosen.name else chosen.name, 0.0)
            above = point.tflops >= other  # away from the line between the two
            steps.annotate(
                f"{point.tflops:.3g}", (i, point.tflops), xytext=(0, 7 if above else -7), textcoords="offset points",
                ha="center", va="bottom" if above else "top", fontsize=9,
                fontweight="bold" if point.name == chosen.name else "normal",
            )  # fmt: skip
    steps.set_xlim(-0.6, len(points) - 0.4)
    steps.set_xticks(range(len(points)), [style.short(point.name) for point in points], rotation=90)
    steps.tick_params(axis="x", length=0)
    steps.grid(axis="x", visible=False)
    return fig


def _angle(ax, left: float, right: float, low: float, high: float, fig) -> float:
    """In degrees, on the page, of a line of slope 1 on axes that are logarithmic both ways."""
    fig.draw_without_rendering()  # settles the axes' size
    box = ax.get_window_extent()
    return math.degrees(math.atan2(box.height / math.log(high / low), box.width / math.log(right / left)))


def _path(ax, places: Sequence[tuple[float, float]], points: Sequence[Point], chosen) -> None:
    """The stages' marks, joined where one is the child of the other."""
    at = {point.name: place for point, place in zip(points, places, strict=True)}
    for point in points:
        record = get(point.name)
        if record.parent in at and not record.new_base:
            mine = point.name == chosen.name
            ax.plot(
                *zip(at[record.parent], at[point.name], strict=True), color=style.COLOURS[1] if mine else "#AAAAAA",
                linewidth=2 if mine else 1, zorder=3 if mine else 2,
            )  # fmt: skip
    for name, place in at.items():
        mine, parent = name == chosen.name, name == chosen.parent
        colour = style.COLOURS[1] if mine else style.COLOURS[0] if parent else "#AAAAAA"
        ax.plot(
            *place, marker="o" if not parent else "s", color=colour, markersize=8 if mine else 7 if parent else 4,
            markeredgecolor="black" if mine or parent else "none", zorder=5 if mine else 4, linestyle="none",
        )  # fmt: skip
