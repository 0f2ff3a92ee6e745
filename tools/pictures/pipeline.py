"""The cp.async pipeline as a timeline: when each tile's copy is asked for, waited for and used in s20, s22 and s23.

What comes after what is the kernels' own order: `recorded` reads it off the emulator, and the suite compares. How long
things take is a model: a copy takes the same time whenever it is asked for, however many travel; the block's warps work
in step; another block on the same multiprocessor, which fills some of the gaps, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tools.pictures import canvas
from tools.plot import style

STAGES = {
    "s20": "each copy is waited for at once",
    "s22": "asked for as soon as its place is free",
    "s23": "two buffers: the next tile travels for a whole iteration",
}
WORK = {"QK": "Q Kᵀ", "softmax": "softmax", "PV": "P V"}
BUFFERS = {"s20": 1, "s22": 1, "s23": 2}


@dataclass(frozen=True)
class Op:
    """One step of the loop. kind: "issue" (of a tile's copy), "wait" (for all copies; then a barrier of the block), or
    one of WORK. tensor: "K" or "V", of an issue; tile: its number, of a wait that of the iteration."""

    kind: str
    tile: int
    tensor: str = ""


@dataclass(frozen=True)
class Span:
    """What takes time. what: "copy", "wait" or one of WORK; tensor: of a copy; start, end: in the model's unit."""

    what: str
    tile: int
    start: float
    end: float
    tensor: str = ""


@dataclass(frozen=True)
class Timeline:
    """label: the stage's short name, or that of an order of your own."""

    label: str
    spans: tuple[Span, ...]

    @property
    def tiles(self) -> int:
        return len({span.tile for span in self.spans if span.what == "PV"})

    @property
    def total(self) -> float:
        return max(span.end for span in self.spans)

    @property
    def waiting(self) -> float:
        """For how long the block stands still."""
        return sum(span.end - span.start for span in self.spans if span.what == "wait")


def program(stage: str, tiles: int) -> list[Op]:
    """The loop of a stage over `tiles` K/V tiles, first to last, as its kernel.cu has it.

    Raises ValueError for a stage other than STAGES, or no tiles.
    """
    if stage not in STAGES:
        raise ValueError(f"stage is {stage!r}; accepted: {', '.join(STAGES)}")
    if tiles < 1:
        raise ValueError(f"tiles is {tiles}; accepted: 1 or more")
    return list({"s20": _s20, "s22": _s22, "s23": _s23}[stage](tiles))


def _s20(tiles: int) -> Iterator[Op]:
    for t in range(tiles):
        yield from (Op("issue", t, "K"), Op("wait", t), Op("QK", t), Op("softmax", t))
        yield from (Op("issue", t, "V"), Op("wait", t), Op("PV", t))


def _s22(tiles: int) -> Iterator[Op]:
    yield Op("issue", 0, "K")
    for t in range(tiles):
        yield from (Op("wait", t), Op("issue", t, "V"), Op("QK", t), Op("softmax", t), Op("wait", t))
        if t + 1 < tiles:
            yield Op("issue", t + 1, "K")
        yield Op("PV", t)


def _s23(tiles: int) -> Iterator[Op]:
    yield from (Op("issue", 0, "K"), Op("issue", 0, "V"))
    for t in range(tiles):
        yield Op("wait", t)
        if t + 1 < tiles:
            yield from (Op("issue", t + 1, "K"), Op("issue", t + 1, "V"))
        yield from (Op("QK", t), Op("softmax", t), Op("PV", t))


USES = {"QK": "K", "PV": "V"}


def hazards(ops: Sequence[Op], buffers: int) -> list[str]:
    """What is wrong with an order, in words: a tile used that was not asked for and waited for, or overwritten while it
    may still be in use, which is until the next barrier. buffers: how many tiles each of K and V has room for."""
    found, arrived, asked = [], set(), set()
    unsettled: set[tuple[str, int]] = set()  # used since the last barrier
    for op in ops:
        if op.kind == "issue":
            lost = op.tensor, op.tile - buffers  # whose place it takes
            if lost in unsettled:
                found.append(f"{op.tensor} {op.tile} overwrites {op.tensor} {lost[1]} before a barrier")
            arrived.discard(lost)
            asked.add((op.tensor, op.tile))
        elif op.kind == "wait":
            arrived |= asked
            asked, unsettled = set(), set()
        elif op.kind in USES:
            used = USES[op.kind], op.tile
            if used not in arrived:
                found.append(f"{used[0]} {op.tile} is used before it is there")
            unsettled.add(used)
    return found


def timeline(
    stage: str, tiles: int = 3, *, copy: float = 7, qk: float = 5, softmax: float = 5, pv: float = 5
) -> Timeline:  # fmt: skip
    """The loop of a stage with durations, in any unit: of a tile's copy, of Q Kᵀ, of the softmax and of P V.

    Raises ValueError as `program` and `timed` do.
    """
    return timed(program(stage, tiles), stage, copy=copy, qk=qk, softmax=softmax, pv=pv)


def timed(
    ops: Sequence[Op], label: str = "yours", *, copy: float = 7, qk: float = 5, softmax: float = 5, pv: float = 5
) -> Timeline:  # fmt: skip
    """The same for an order of your own; `hazards` says whether it is a right one.

    Raises ValueError for durations that are not above 0, or no products.
    """
    lasts = {"QK": qk, "softmax": softmax, "PV": pv}
    for name, value in {"copy": copy, "qk": qk, "softmax": softmax, "pv": pv}.items():
        if not value > 0:
            raise ValueError(f"{name} is {value!r}; accepted: above 0")
    if not any(op.kind in lasts for op in ops):
        raise ValueError(f"ops has no work; accepted: some of {', '.join(lasts)} among them")
    now, landed, spans = 0.0, 0.0, []
    for op in ops:
        if op.kind == "issue":
            spans.append(Span("copy", op.tile, now, now + copy, op.tensor))
            landed = now + copy
        elif op.kind == "wait":
            if landed > now:
                spans.append(Span("wait", op.tile, now, landed))
            now = max(now, landed)
        else:
            spans.append(Span(op.kind, op.tile, now, now + lasts[op.kind]))
            now += lasts[op.kind]
    return Timeline(label, tuple(spans))


def order(ops: Sequence[Op]) -> list[tuple[str, str, int]]:
    """("issue" or "use", "K" or "V", tile), without what the emulator keeps no record of: waits, and the softmax."""
    return [
        ("issue", op.tensor, op.tile) if op.kind == "issue" else ("use", USES[op.kind], op.tile)
        for op in ops
        if op.kind == "issue" or op.kind in USES
    ]


def recorded(stage: str, tiles: int = 3, headdim: int = 64) -> tuple[list[tuple[str, str, int]], int]:
    """What the first warp of a stage does in the emulator over so many K/V tiles: `order` as it was executed, and how
    many barriers of the block the loop has.

    Needs a C++ compiler (RuntimeError). Raises ValueError as `program`.
    """
    from reference import Case
    from stages import get
    from tools.emulator import Settings, missing
    from tools.emulator.run import run

    program(stage, tiles)  # for its errors
    if missing():
        raise RuntimeError(f"{stage} cannot be emulated: {missing()}")
    made = get(stage)
    Br, Bc = made.tiles["Br"], made.tiles["Bc"]
    case = Case(dtype="bfloat16", headdim=headdim, seqlen_q=Br, seqlen_k=tiles * Bc, nheads=1, nheads_k=1)
    done = run(stage, made, case, Settings(races=False, trace=1 << 20))
    Q_bytes, tile_bytes = Br * headdim * 2, Bc * headdim * 2
    seen, counts = [], {}
    for trace in done.report.traces:
        address = min(trace.addresses[lane] for one in trace.passes for lane in one.lanes)
        if trace.warp or trace.op not in ("cp.async", "ldmatrix", "ldmatrix.trans") or address < Q_bytes:
            continue
        place = (address - Q_bytes) // tile_bytes  # K and V lie behind Q by turns
        step = ("issue" if trace.op == "cp.async" else "use"), "KV"[place % 2], place
        if not seen or seen[-1] != step:
            seen.append(step)
    for i, (kind, tensor, _) in enumerate(seen):
        tile = counts[kind, tensor] = counts.get((kind, tensor), -1) + 1
        seen[i] = kind, tensor, tile
    warps = made.tiles["num_warps"]
    barriers = done.report.total("instructions", "__syncthreads") // warps - 1  # but for the one that waits for Q
    return seen, barriers


ROWS = ("K travels", "V travels", "the block")
# Face and hatch: dark, pale and in between, so that they are told apart in greyscale as well.
COPIES = {"K": (canvas.tint(style.COLOURS[5], 0.8), "...."), "V": (canvas.tint(style.COLOURS[4], 0.8), "....")}
BLOCK = {"QK": (style.COLOURS[0], ""), "softmax": ("#E8E8E8", ""), "PV": (canvas.tint(style.COLOURS[1], 0.55), "")}


@canvas.in_style
def draw(
    stages: Sequence[str | Timeline] = tuple(STAGES), *, tiles: int = 3, copy: float = 7, qk: float = 5,
    softmax: float = 5, pv: float = 5,
) -> canvas.Picture:  # fmt: skip
    """A panel a stage, on one axis of time: the copies of K and V, and what the block does meanwhile.

    stages: names, or a Timeline as `timed` makes it. Raises ValueError as `timeline`, and for none.
    """
    lasts = {"copy": copy, "qk": qk, "softmax": softmax, "pv": pv}
    lines = [stage if isinstance(stage, Timeline) else timeline(stage, tiles, **lasts) for stage in stages]
    if not lines:
        raise ValueError(f"stages is empty; accepted: some of {', '.join(STAGES)}")
    fig = canvas.picture(
        1.7 + 1.25 * len(lines),
        "Copies and work",
        f"A model of one block and {tiles} K/V tiles: the order is the kernels', the durations are assumed: a copy "
        f"{copy:g}, "
        f"Q Kᵀ {qk:g}, the softmax {softmax:g}, P V {pv:g}. Numbers: the K/V tile.",
        alt(lines),
    )
    axes = fig.subplots(len(lines), 1, sharex=True, squeeze=False)[:, 0]
    end = max(line.total for line in lines)
    for ax, line in zip(axes, lines, strict=True):
        _panel(ax, line, end)
    axes[-1].set_xlabel("time, in the model's unit")
    handles = [
        canvas.Rectangle((0, 0), 1, 1, facecolor=colour, hatch=hatch, edgecolor="black", linewidth=0.6)
        for colour, hatch in (*COPIES.values(), *BLOCK.values(), ("#FFFFFF", "xxxx"))
    ]
    names = ["copy of K", "copy of V", *WORK.values(), "waiting"]
    axes[0].legend(
        handles, names, loc="lower left", bbox_to_anchor=(0, 1.16), ncols=6, frameon=False, handlelength=1.4,
        columnspacing=1.2,
    )  # fmt: skip
    return fig


def _panel(ax, line: Timeline, end: float) -> None:
    for span in line.spans:
        row = ROWS.index(f"{span.tensor} travels") if span.what == "copy" else 2
        waiting = span.what == "wait"
        colour, hatch = ("#FFFFFF", "xxxx") if waiting else COPIES[span.tensor] if span.tensor else BLOCK[span.what]
        ax.add_patch(
            canvas.Rectangle(
                (span.start, row + 0.08), span.end - span.start, 0.84, facecolor=colour, hatch=hatch,
                edgecolor="black", linewidth=0.6, zorder=2,
            )
        )  # fmt: skip
        if not waiting:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.9} if hatch else None
            ax.text(
                (span.start + span.end) / 2, row + 0.5, str(span.tile), ha="center", va="center", fontsize=8.5,
                zorder=3, bbox=box, color="black" if hatch else canvas.ink(colour),
            )  # fmt: skip
    ax.set_xlim(0, 1.005 * end)
    ax.set_ylim(3.02, 0)
    ax.set_yticks([0.5, 1.5, 2.5], ROWS)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.set_title(
        f"{line.label}: {STAGES.get(line.label, 'an order of your own')}. {line.total / max(1, line.tiles):.3g} a "
        "tile, "
        f"{line.waiting / line.total:.0%} waiting",
        loc="left", fontsize=9.5,
    )  # fmt: skip


def alt(lines: Sequence[Timeline]) -> str:
    said = "; ".join(f"{x.label} takes {x.total:g}, of which it waits {x.waiting:g}" for x in lines)
    return f"Timelines of the copies of K and V and of the block's work, a panel a stage. {said}."
