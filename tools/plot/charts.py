"""The figures. Each takes one device's records and gives a Figure, or None when there is nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from stages import STAGES
from tools import results
from tools.bench.shapes import TOKENS, WIDTH, Shape
from tools.plot import style, traffic

BASELINE = "torch_fa2"


@dataclass
class Sheet:
    """What one set of figures is drawn from: the records of one device, and of the NumPy stages beside it."""

    device: str
    environment: dict
    gpu: list[dict] = field(default_factory=list)
    host: list[dict] = field(default_factory=list)

    @property
    def subtitle(self) -> str:
        dtypes = sorted({record["dtype"] for record in self.gpu})
        return ", ".join([self.device, *dtypes, self.environment["date"][:10]])


def sheets(files: Iterable[results.Results]) -> list[Sheet]:
    """A sheet a GPU; NumPy's records go with the GPU of their file, those of files without one have a sheet
    of their own."""
    made: dict[str, Sheet] = {}
    for file in sorted(files, key=lambda file: file.environment["date"]):  # the newest file's environment stays
        timed = [record for record in file.records if results.is_timed(record) and results.on_grid(record)]
        gpu = [record for record in timed if record["where"] == "gpu"]
        host = [record for record in timed if record["where"] == "host"]
        devices = list(dict.fromkeys(record["device"] for record in gpu or host))
        for device in devices:
            sheet = made.setdefault(device, Sheet(device, file.environment))
            sheet.environment = file.environment
            sheet.gpu += [record for record in gpu if record["device"] == device]
            sheet.host += host
    return list(made.values())


def _newest(records: Iterable[dict]) -> list[dict]:
    """One record of each name and case: that of the newest run."""
    chosen: dict[tuple, dict] = {}
    for record in sorted(records, key=lambda record: record["run"]):
        chosen[record["name"], results.case_of(record)] = record
    return list(chosen.values())


def _main_dtype(records: Sequence[dict]) -> list[dict]:
    """The records of the dtype that most of them have: figures compare within one."""
    dtypes = [record["dtype"] for record in records]
    return [r for r in records if r["dtype"] == max(sorted(set(dtypes)), key=dtypes.count)]


def _names(records: Sequence[dict]) -> list[str]:
    """Stages in the ladder's order, then peers in theirs."""
    there = {record["name"] for record in records}
    stages = sorted(record_name for record_name in there if record_name not in style.PEER_STYLES)
    return stages + [name for name in style.PEER_STYLES if name in there]


def _stages(records: Sequence[dict]) -> list[str]:
    return sorted({record["name"] for record in records if record["kind"] == "stage"})


def _series(records: Sequence[dict], name: str, value) -> tuple[list, list]:
    points = sorted((record["seqlen_q"], value(record)) for record in records if record["name"] == name)
    return [x for x, _ in points], [y for _, y in points]


def _lengths(records: Sequence[dict]) -> list[int]:
    return sorted({record["seqlen_q"] for record in records})


def _widest(records: Sequence[dict]) -> list[dict]:
    """Those of the panel with the most stages, of the largest head dim among these, not causal if there are such: one
    panel where four would say the same."""
    panels = _panels(records)
    if not panels:
        return []
    return _of(records, *max(panels, key=lambda panel: (len(_stages(_of(records, *panel))), panel[0], not panel[1])))


PARENTS = {stage.name: stage.parent for stage in STAGES}
MANY = 8  # lines of stages: more cannot be told apart
STEP = 1.2  # how much faster than its parent a stage is to be for a line of its own, when there are many


def _milestones(records: Sequence[dict]) -> tuple[list[dict], str]:
    """The records without those of small steps where there are MANY stages, and what a footer says about it.

    A stage stays when it is the first or the last of its part, or STEP times as fast as its parent at some shape.
    """
    stages = _stages(records)
    if len(stages) <= MANY:
        return list(records), ""
    parts = [[name for name in stages if name[1] in digits] for digits in ("0", "1", "23")]
    keep = {name for part in parts if part for name in (part[0], part[-1])}
    keep |= {name for name in stages if name[1] not in "0123"}
    speed = {(r["name"], r["headdim"], r["causal"], r["seqlen_q"]): r["tflops"] for r in records}
    for (name, *shape), tflops in speed.items():
        parent = PARENTS.get(name)
        if parent in stages and tflops >= STEP * speed.get((parent, *shape), math.inf):
            keep.add(name)
    left_out = f" Steps of less than {STEP - 1:.0%} have no line here; the ladder shows all."
    return [r for r in records if r["kind"] != "stage" or r["name"] in keep], left_out


def _lines(ax, records: Sequence[dict], stages: list[str], value, label) -> list[tuple[float, float, str, str]]:
    """A line a name -> their ends, for `style.label_ends`."""
    ends = []
    for name in _names(records):
        x, y = _series(records, name, value)
        line = style.line_style(name, stages)
        ax.plot(x, y, **line)
        ends.append((x[-1], y[-1], label(name), line["color"]))
    return ends


def _panels(records: Sequence[dict]) -> list[tuple[int, bool]]:
    return sorted({(record["headdim"], record["causal"]) for record in records})


def _mask(causal: bool) -> str:
    return "causal" if causal else "not causal"


def _of(records: Sequence[dict], headdim: int, causal: bool) -> list[dict]:
    return [record for record in records if (record["headdim"], record["causal"]) == (headdim, causal)]


def _grid(fig: Figure, panels: Sequence[tuple[int, bool]], **options):
    """Axes by (head dim, causal): a row a head dim, a column a mask."""
    rows, columns = sorted({d for d, _ in panels}), sorted({c for _, c in panels})
    axes = fig.subplots(len(rows), len(columns), squeeze=False, **options)
    for (i, d), (j, c) in ((a, b) for a in enumerate(rows) for b in enumerate(columns)):
        if (d, c) not in panels:
            axes[i][j].set_axis_off()
    return {(d, c): axes[rows.index(d)][columns.index(c)] for d, c in panels}


def _size(panels: Sequence[tuple[int, bool]], width: float, height: float) -> tuple[float, float]:
    return (
        max(6.5, width * len({c for _, c in panels})),
        0.9 + height * len({d for d, _ in panels}),
    )


def throughput(sheet: Sheet) -> Figure | None:
    """TFLOP/s against length, a panel a head dim and mask."""
    records = _newest(_main_dtype(sheet.gpu))
    if not records:
        return None
    records, left_out = _milestones(records)
    panels, stages = _panels(records), _stages(records)
    footer = f"{TOKENS} tokens in all, {WIDTH} wide."
    ceilings = sheet.environment.get("ceilings")
    if ceilings:
        footer += f" A matrix product of 8192³ reaches {ceilings['matmul_tflops']:.0f} TFLOP/s here."
    footer += left_out
    size = _size(panels, 6.4, 4.2)
    fig = style.figure(*size, "Throughput of the forward pass", sheet.subtitle, footer)
    lengths = _lengths(records)
    labels = []
    for (headdim, causal), ax in _grid(fig, panels).items():
        here = _of(records, headdim, causal)
        labels.append((ax, _lines(ax, here, stages, lambda record: record["tflops"], style.label)))
        style.length_axis(ax, lengths, room=5 if len(lengths) > 2 else 3)
        ax.set_ylim(0, 1.06 * max(record["tflops"] for record in here))
        ax.set_ylabel("TFLOP/s")
        ax.set_title(f"head dim {headdim}, {_mask(causal)}", loc="left")
    style.label_ends(fig, labels)
    return fig


def time_and_memory(sheet: Sheet) -> Figure | None:
    """Time and peak memory of one sequence against its length, on logarithmic axes: NumPy stages above, the
    GPU below."""
    rows, left_out = [], ""
    host = [record for record in _newest(sheet.host) if not record["causal"]]
    if host:
        rows.append((f"NumPy, {host[0]['nheads']} heads of {host[0]['headdim']}, float32", host))
    gpu, left_out = _milestones(_widest(_newest(_main_dtype(sheet.gpu))))
    if gpu:
        mask = ", causal" if gpu[0]["causal"] else ""
        rows.append((f"GPU, {gpu[0]['nheads']} heads of {gpu[0]['headdim']}, {gpu[0]['dtype']}{mask}", gpu))
    if not rows:
        return None
    footer = "A call's time, and its peak memory beside its inputs, divided by its batch: those of one sequence."
    footer += left_out
    where = f"{sheet.subtitle}; NumPy on {host[0]['device']}, one thread" if host and gpu else sheet.subtitle
    fig = style.figure(12.4, 0.9 + 4.4 * len(rows), "Time and memory against length", where, footer)
    labels = []
    quantities = (
        ("time", "ms", lambda record: record["ms_median"] / record["batch"]),
        ("memory", "MiB", lambda record: record["peak_bytes"] / record["batch"] / 2**20),
    )
    for axes, (title, records) in zip(fig.subplots(len(rows), 2, squeeze=False), rows, strict=True):
        for ax, (what, unit, value) in zip(axes, quantities, strict=True):
            ends = _lines(ax, records, _stages(records), value, style.short)
            ax.set_yscale("log")
            style.length_axis(ax, _lengths(records), room=4.5)
            _slopes(ax, _lengths(records), min(y for _, y, _, _ in ends))
            ax.set_ylabel(f"{what} ({unit})")
            ax.set_title(f"{title}: {what}", loc="left")
            labels.append((ax, ends))
    style.label_ends(fig, labels, merge=True)
    return fig


def _slopes(ax, lengths: Sequence[int], lowest: float) -> None:
    """Two thin lines for the eye, below the data: what grows with N, and what grows with N²."""
    last = lengths[-1]
    first = max(lengths[0], last // 8)
    for power, text, below in ((1, "∝ N", -11), (2, "∝ N²", -20)):
        low = 0.25 * lowest * (first / last) ** 2
        high = low * (last / first) ** power
        ax.plot([first, last], [low, high], color="#999999", linewidth=0.9, zorder=1)
        ax.annotate(
            text, (last, high), xytext=(0, below), textcoords="offset points", ha="right", va="center",
            fontsize=9, color="#666666",
        )  # fmt: skip


def ladder(sheet: Sheet) -> Figure | None:
    """Each stage's throughput in percent of the official FlashAttention-2 kernel: the harmonic mean over 1k
    to 16k."""
    records = _main_dtype(sheet.gpu)
    stages = _stages(records)
    bars = {panel: _percentages(_of(records, *panel), stages) for panel in _panels(records)}
    bars = {panel: values for panel, values in bars.items() if values}
    if not bars:
        return None
    # A row of panels shows the stages that its head dim has.
    rows = {d: [name for name in stages if any(name in v for (e, _), v in bars.items() if e == d)] for d, _ in bars}
    width, _ = _size(list(bars), 5.6, 1)
    heights = {d: 0.75 + 0.34 * len(names) for d, names in sorted(rows.items())}
    lengths_used = {lengths for values in bars.values() for _, lengths in values.values()}
    over = "measured"
    if len(lengths_used) == 1:
        over = ", ".join(f"{n // 1024}k" for n in lengths_used.pop())
    fig = style.figure(
        width,
        1.2 + sum(heights.values()),
        "The ladder: throughput in % of FlashAttention-2 as PyTorch ships it",
        sheet.subtitle,
        f"Harmonic mean over the lengths {over}. Hatched: slower than the stage that it is diffed against.",
    )
    top = 1.22 * max(100, *(percent for values in bars.values() for percent, _ in values.values()))
    for (headdim, causal), ax in _grid(fig, list(bars), sharey="row", height_ratios=list(heights.values())).items():
        values = bars[headdim, causal]
        for i, name in enumerate(rows[headdim]):
            if name not in values:
                continue
            percent, _ = values[name]
            behind = _parent_percent(name, values)
            slower = behind is not None and round(percent) < round(behind[1])  # by what is written beside the bars
            line = style.line_style(name, stages)
            ax.barh(
                i, percent, height=0.62, color="white" if slower else line["color"], edgecolor=line["color"],
                hatch="////" if slower else None, zorder=2,
            )  # fmt: skip
            note = f"{percent:.1f} %" if percent < 10 else f"{percent:.0f} %"
            if slower:
                note += f", slower than {style.short(behind[0])}"
            ax.text(
                percent + top * 0.012,
                i,
                note,
                va="center",
                fontsize=9,
                zorder=4,  # over the line at 100 %
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
        ax.axvline(100, color="black", linewidth=1, linestyle=(0, (6, 2)), zorder=3)
        ax.set_xlim(0, top)
        ax.set_ylim(len(rows[headdim]) - 0.45, -0.55)
        ax.set_yticks(range(len(rows[headdim])), [style.label(name) for name in rows[headdim]])
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("% of FA2")
        ax.set_title(f"head dim {headdim}, {_mask(causal)}", loc="left")
    return fig


def _percentages(records: Sequence[dict], stages: Sequence[str]) -> dict[str, tuple[float, tuple[int, ...]]]:
    """name -> (percent, the lengths it is a mean of): all of 1k to 16k, or those that were measured."""
    found = {}
    for name in stages:
        pairs = {}
        for seqlen in results.RATIO_SEQLENS:
            try:
                pairs[seqlen] = results.pair(records, name, BASELINE, seqlen=seqlen)
            except results.NoData:
                continue
        if pairs:
            ratios = [theirs["ms_median"] / ours["ms_median"] for ours, theirs in pairs.values()]
            found[name] = 100 * results.harmonic_mean(ratios), tuple(pairs)
    return found


def _parent_percent(name: str, values: dict) -> tuple[str, float] | None:
    """A stage's parent and the parent's percentage, if it is in the figure too and of the same lengths."""
    parent = next((stage.parent for stage in STAGES if stage.name == name), None)
    if parent not in values or values[parent][1] != values[name][1]:
        return None
    return parent, values[parent][0]


def roofline(sheet: Sheet) -> Figure | None:
    """Throughput against arithmetic intensity, FLOPs a byte of memory traffic as `traffic.memory_bytes`
    counts it, under the two ceilings measured in the same run."""
    ceilings = sheet.environment.get("ceilings")
    records, left_out = _milestones(_widest(_newest(_main_dtype(sheet.gpu))))
    if not ceilings or not records:
        return None
    bandwidth, peak = ceilings["copy_tb_per_s"], ceilings["matmul_tflops"]
    stages = _stages(records)
    title = f"Roofline: head dim {records[0]['headdim']}, {_mask(records[0]['causal'])}"
    footer = (
        "Bytes are counted, the L2 serving what programs read at the same time: tools/plot/traffic.py."
        f" A point a length, {_lengths(records)[0]} to {_lengths(records)[-1]}."
    )
    fig = style.figure(10.6, 6.6, title, sheet.subtitle + (f".{left_out}" if left_out else ""), footer)
    ax = fig.subplots()
    intensities = [_intensity(record) for record in records]
    left, right, knee = 0.5 * min(intensities), 8 * max(intensities), peak / bandwidth
    left = min(left, knee / 4)
    ax.plot([left, knee, right], [left * bandwidth, peak, peak], color="black", linewidth=1.6, zorder=1)
    ax.loglog()
    ax.set_xlim(left, right)
    ax.set_ylim(0.5 * min(record["tflops"] for record in records), 1.9 * peak)
    ax.set_xlabel("FLOPs a byte of memory traffic")
    ax.set_ylabel("TFLOP/s")
    ends = []
    for name in _names(records):
        points = sorted((r["seqlen_q"], _intensity(r), r["tflops"]) for r in records if r["name"] == name)
        x, y = [x for _, x, _ in points], [y for _, _, y in points]
        line = style.line_style(name, stages)
        ax.plot(x, y, **line | {"linewidth": 0.8})
        if x[-1] < 0.1 * max(intensities):  # far from the others: its name stands above its highest point
            ax.annotate(
                style.label(name), max(zip(x, y, strict=True), key=lambda point: point[1]), xytext=(0, 8),
                textcoords="offset points", ha="center", fontsize=9, color=line["color"],
            )  # fmt: skip
        else:
            ends.append((x[-1], y[-1], style.label(name), line["color"]))
    ax.annotate(
        f"matrix product 8192³: {peak:.0f} TFLOP/s", (right, peak), xytext=(-4, 4),
        textcoords="offset points", ha="right", fontsize=9,
    )  # fmt: skip
    fig.draw_without_rendering()
    (x0, y0), (x1, y1) = ax.transData.transform([(left, left * bandwidth), (knee, peak)])
    middle = (left * knee) ** 0.5
    ax.annotate(
        f"memory: a copy moves {bandwidth:.2f} TB/s", (middle, middle * bandwidth), xytext=(-4, 4),
        textcoords="offset points", ha="center", fontsize=9,
        rotation=math.degrees(math.atan2(y1 - y0, x1 - x0)), rotation_mode="anchor",
    )  # fmt: skip
    style.label_ends(fig, [(ax, ends)])
    return fig


def _intensity(record: dict) -> float:
    return Shape.of(record).flops / traffic.memory_bytes(record)


def v1_against_v2(sheet: Sheet) -> Figure | None:
    """The loop swap: time as measured, bytes and programs as counted (`traffic`), as the length grows."""
    records = _newest(_main_dtype(sheet.gpu))
    records = _widest([record for record in records if record["name"].startswith(("s11_", "s12_"))])
    names = _stages(records)
    if len(names) < 2:
        return None
    headdim, mask = records[0]["headdim"], _mask(records[0]["causal"])
    title = f"What the loop swap buys: head dim {headdim}, {mask}, {TOKENS} tokens"
    footer = "Bytes and programs are counted in closed form: tools/plot/traffic.py."
    fig = style.figure(13.2, 4.9, title, sheet.subtitle, footer)
    panels = (
        ("time (ms), measured", lambda record: record["ms_median"]),
        ("GB asked of global memory, counted", lambda record: traffic.asked_bytes(record) / 1e9),
        ("programs, counted", traffic.programs),
    )
    labels = []
    axes = fig.subplots(1, len(panels))
    for ax, (text, value) in zip(axes, panels, strict=True):
        labels.append((ax, _lines(ax, records, names, value, style.short)))
        ax.set_yscale("log")
        style.length_axis(ax, _lengths(records), room=1.6)
        ax.set_title(text, loc="left")
    sms = sheet.environment.get("sms")
    if sms:
        axes[-1].axhline(sms, color="black", linewidth=1, linestyle=(0, (6, 2)), zorder=1)
        axes[-1].annotate(
            f"{sms} SMs", (_lengths(records)[0], sms), xytext=(0, 4), textcoords="offset points", fontsize=9
        )
    style.label_ends(fig, labels)
    return fig


CHARTS = {
    "throughput": throughput,
    "time-and-memory": time_and_memory,
    "ladder": ladder,
    "roofline": roofline,
    "v1-against-v2": v1_against_v2,
}
