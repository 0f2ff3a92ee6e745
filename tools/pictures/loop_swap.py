"""FlashAttention-1's order (s11) against -2's (s12) as the sequence grows: time, bytes, programs.

Time is the benchmark's, bytes that reached device memory are the profiler's; bytes asked for and programs are counted
in closed form (tools/plot/traffic.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tools import results
from tools.pictures import canvas, recorded
from tools.plot import style, traffic

STAGES = ("s11_triton_v1", "s12_triton_v2")


@dataclass(frozen=True)
class Series:
    """One stage at its lengths, ascending: time in ms, bytes asked for, programs. moved: bytes that the profiler saw
    read from device memory and written to it, by length, where it looked."""

    name: str
    lengths: tuple[int, ...]
    ms: tuple[float, ...]
    asked: tuple[int, ...]
    programs: tuple[int, ...]
    moved: dict[int, float]


def series(records: Sequence[dict], profiles: Sequence[dict], *, headdim: int = 128) -> list[Series]:
    """A Series for each of STAGES, from records of the benchmark and of the profiler: bfloat16, not causal, the newest
    run of each length. Raises NoData where a stage was not timed at this head dim."""
    made = []
    for name in STAGES:
        found = results.entries(records, name, headdim=headdim, causal=False, dtype="bfloat16")
        timed = {r["seqlen_q"]: r for r in sorted(found, key=lambda r: r["run"]) if results.on_grid(r)}
        if not timed:
            raise results.NoData(f"no timed entry for {name} at head dim {headdim}")
        mine = [timed[n] for n in sorted(timed)]
        wanted = {"name": name, "headdim": headdim, "causal": False, "dtype": "bfloat16"}
        seen = [p for p in profiles if all(p[key] == value for key, value in wanted.items())]
        moved = {p["seqlen"]: p["counters"]["dram_read"] + p["counters"]["dram_write"] for p in seen}
        made.append(
            Series(
                name,
                tuple(r["seqlen_q"] for r in mine),
                tuple(r["ms_median"] for r in mine),
                tuple(traffic.asked_bytes(r) for r in mine),
                tuple(traffic.programs(r) for r in mine),
                moved,
            )
        )
    return made


@canvas.in_style
def draw(headdim: int = 128) -> canvas.Picture:
    """Three panels over the length, from what the repository has recorded. Raises NoData as `series`."""
    sheet = recorded.sheet()
    both = series(sheet.gpu, recorded.profiles(sheet.device), headdim=headdim)
    sms = sheet.environment.get("sms")
    fig = canvas.picture(
        3.35,
        "The loop swap as the sequence grows",
        f"{sheet.device}, bf16, head dim {headdim}, 16384 tokens, not causal. Lines of the second panel: what the "
        "kernels ask for, counted. Crosses: what the profiler saw reach device memory.",
        alt(both),
    )
    panels = fig.subplots(1, 3)
    for k, one in enumerate(both):
        colour, marker = style.COLOURS[k], style.MARKERS[k]
        for ax, values in zip(panels, (one.ms, [b / 1e9 for b in one.asked], one.programs), strict=True):
            ax.plot(one.lengths, values, color=colour, marker=marker, markersize=4.5, label=style.short(one.name))
        for n, total in one.moved.items():
            panels[1].plot(n, total / 1e9, "x", color=colour, markersize=8, markeredgewidth=2, zorder=5)
    for ax, title in zip(panels, ("time, ms", "GB", "programs"), strict=True):
        ax.set_yscale("log")
        style.length_axis(ax, [n for n in both[0].lengths if n != 512] if len(both[0].lengths) > 5 else both[0].lengths)
        ax.set_xlim(both[0].lengths[0] / 1.2, both[0].lengths[-1] * 1.2)
        ax.set_title(title, loc="left", fontsize=10)
        ax.tick_params(labelsize=8)
    if sms:
        panels[2].axhline(sms, color="black", linewidth=1, linestyle=(0, (6, 2)), zorder=1)
        x = both[0].lengths[-1] * 1.15
        panels[2].text(x, sms * 1.08, f"{sms} multiprocessors", fontsize=8, ha="right", va="bottom")
    panels[0].legend(frameon=False, loc="upper left")
    return fig


def alt(both: Sequence[Series]) -> str:
    parts = []
    for one in both:
        first, last = one.lengths[0], one.lengths[-1]
        parts.append(
            f"{style.short(one.name)} from length {first} to {last}: {one.ms[0]:.3g} to {one.ms[-1]:.3g} ms, "
            f"{one.asked[0] / 1e9:.3g} to {one.asked[-1] / 1e9:.3g} GB asked, {one.programs[0]} to {one.programs[-1]} "
            "programs"
        )
    return f"Three panels over the sequence length. {'; '.join(parts)}."
