"""What naive attention holds and moves as sequences grow, beside tiles: in closed form, and as measured.

Scores: S is seqlen × seqlen. Traffic: tools/plot/traffic.py has the formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.common.tiles import SHARED_BYTES
from tools.bench.shapes import Shape
from tools.pictures import canvas, recorded
from tools.plot import charts, style, traffic

SEQLENS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
PAIRS = {"gpu": ("torch_math", "s12_triton_v2"), "host": ("s01_naive", "s02_online_softmax")}  # naive, tiled


@dataclass(frozen=True)
class Counted:
    """Bytes of one head at one length. scores: of S, all at once; tile: of the S that a tiled kernel holds;
    naive: moved between memory and the chip; asked: what a tiled kernel (s12) asks the L2 cache for; once: Q, K, V
    read and O, LSE written, each once, which is about what a tiled kernel moves, since its programs want the same keys
    at the same time."""

    seqlen: int
    scores: int
    tile: int
    naive: int
    asked: int
    once: int


def counted(
    seqlens: Sequence[int] = SEQLENS, *, headdim: int = 128, itemsize: int = 2, Br: int = 64, Bc: int = 64
) -> list[Counted]:  # fmt: skip
    """In closed form, without a mask. itemsize: bytes of an element of Q, K, V, O and of the S and P that the naive
    version writes; a tile's S is float32. Raises ValueError for sizes below 1."""
    for name, size in {"headdim": headdim, "itemsize": itemsize, "Br": Br, "Bc": Bc}.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; accepted: 1 or more")
    made = []
    for n in seqlens:
        shape = Shape(1, n, n, 1, 1, headdim, False)
        moved = traffic.plain_bytes(shape, itemsize), traffic.v2_bytes(shape, itemsize, Br, Bc)
        made.append(Counted(n, n * n * itemsize, Br * Bc * 4, *moved, traffic.once_bytes(shape, itemsize)))
    return made


@dataclass(frozen=True)
class Measured:
    """One record: milliseconds, and bytes of peak memory beside the inputs, of one sequence with all its heads."""

    seqlen: int
    ms: float
    bytes: float


def measured(sheet: charts.Sheet, where: str = "gpu", headdim: int | None = None) -> dict[str, list[Measured]]:
    """By name, naive first, without a mask, lengths ascending; names without records are left out.

    where: "gpu", PyTorch's plain operations and s12, or "host", s01 and s02. headdim: default 128 on the GPU, that of
    the records on the host. Raises ValueError for another `where`.
    """
    if where not in PAIRS:
        raise ValueError(f"where is {where!r}; accepted: {', '.join(PAIRS)}")
    records = sheet.gpu if where == "gpu" else sheet.host
    if where == "gpu":
        headdim = 128 if headdim is None else headdim
    records = [r for r in records if not r["causal"] and r["headdim"] == (headdim or r["headdim"])]
    records = charts._newest(charts._main_dtype(records)) if records else []
    made = {}
    for name in PAIRS[where]:
        own = sorted((r for r in records if r["name"] == name), key=lambda r: r["seqlen_q"])
        if own:
            made[name] = [
                Measured(r["seqlen_q"], r["ms_median"] / r["batch"], r["peak_bytes"] / r["batch"]) for r in own
            ]
    return made


def profiled(device: str, headdim: int = 128, itemsize: int = 2) -> dict[int, float]:
    """{length: bytes of one head that the profiler saw s12 read from and write to memory}, not causal."""
    itemsizes = {"float16": 2, "bfloat16": 2, "float32": 4}
    return {
        one["seqlen"]: (one["counters"]["dram_read"] + one["counters"]["dram_write"]) / (one["batch"] * one["nheads"])
        for one in recorded.profiles(device)
        if (one["name"], one["headdim"], one["causal"]) == (PAIRS["gpu"][1], headdim, False)
        and itemsizes[one["dtype"]] == itemsize
    }


@canvas.in_style
def draw(
    where: str = "gpu", *, headdim: int = 128, itemsize: int = 2, naive_only: bool = False,
    sheet: charts.Sheet | None = None,
) -> canvas.Picture:  # fmt: skip
    """Four panels: above, counted, what is held of S and what is moved; below, measured, memory and time.

    naive_only: without the tiles' curves. On the "host" nothing is said of caches, and nothing that a profiler saw.
    sheet: of which results (default: the committed ones). Where nothing is recorded, the lower row is left out.
    """
    sheet = recorded.sheet() if sheet is None else sheet
    lines = counted(headdim=headdim, itemsize=itemsize)
    records = measured(sheet, where, headdim if where == "gpu" else None)
    if naive_only:
        records = {name: own for name, own in records.items() if name == PAIRS[where][0]}
    last = lines[-1]
    on_gpu = where == "gpu" and not naive_only
    seen = profiled(sheet.device, headdim, itemsize) if on_gpu else {}
    device = sheet.device if where == "gpu" else (sheet.host[0]["device"] if sheet.host else "")
    fig = canvas.picture(
        1.25 + 2.55 * (1 + bool(records)),
        "The memory wall",
        f"Above: one head of {headdim}, {itemsize} bytes an element, counted."
        + (f" Below: one sequence with all its heads, measured on {_place(device)}." if records else ""),
        f"Curves against the sequence length, on logarithmic axes. Counted: at {last.seqlen} the scores take "
        f"{_size(last.scores)} a head"
        + ("" if naive_only else f" and a tile of them {_size(last.tile)}")
        + f"; naive attention moves {_size(last.naive)}"
        + ("." if naive_only else f", tiles {_size(last.once)}.")
        + _alt_measured(records),
        NOTE * on_gpu + (f" Rings: s12 on {_place(sheet.device)}, counted by the profiler." if seen else ""),
    )
    axes = fig.subplots(1 + bool(records), 2, squeeze=False)
    _counted(axes[0], lines, seen, tiles=not naive_only, on_gpu=on_gpu)
    if records:
        _measured(axes[1], records)
    return fig


NOTE = (
    "Every Q tile asks for all of K and V, but the Q tiles of a head ask at the same time: the L2 cache answers, and "
    "the memory moves each tensor about once."
)


NAIVE = {"color": style.COLOURS[1], "marker": "s", "linewidth": 1.8, "markersize": 4.5}
TILED = {"color": style.COLOURS[0], "marker": "o", "linewidth": 1.8, "markersize": 4.5}
THIN = {"color": "#555555", "linestyle": (0, (4, 2)), "linewidth": 1.3}
RING = {"color": "black", "marker": "o", "markersize": 10, "markerfacecolor": "none", "linestyle": "none", "zorder": 4}


def _counted(axes, lines: Sequence[Counted], seen: dict[int, float], *, tiles: bool, on_gpu: bool) -> None:
    x = [line.seqlen for line in lines]
    held, moved = axes
    held.plot(x, [line.scores for line in lines], label="S, whole", **NAIVE)
    if tiles:
        held.plot(x, [line.tile for line in lines], label="a tile of S", **TILED)
    size = f"{SHARED_BYTES[90] >> 10} KiB"
    label = f"shared memory of a block, {size} (sm_90)" if on_gpu else f"own memory of a GPU's processor, {size}"
    held.axhline(SHARED_BYTES[90], **THIN, label=label)
    held.set_title("held of the scores, counted", loc="left")
    moved.plot(x, [line.naive for line in lines], label="naive: S and P to memory and back", **NAIVE)
    if tiles and on_gpu:
        moved.plot(x, [line.asked for line in lines], label="tiles: asked of the L2 cache", **THIN)
    if tiles:
        label = "tiles: moved by the memory" if on_gpu else "tiles: Q, K, V and O, each once"
        moved.plot(x, [line.once for line in lines], label=label, **TILED)
    moved.plot(list(seen), list(seen.values()), **RING)
    moved.set_title("moved, counted", loc="left")
    for ax in axes:
        _axes(ax, x, _size)


def _measured(axes, records: dict[str, list[Measured]]) -> None:
    names = next(pair for pair in PAIRS.values() if set(pair) >= set(records))
    x = sorted({one.seqlen for own in records.values() for one in own})
    for name, own in records.items():
        look = NAIVE if name == names[0] else TILED
        for ax, value in zip(axes, ("bytes", "ms"), strict=True):
            ax.plot([one.seqlen for one in own], [getattr(one, value) for one in own], label=style.label(name), **look)
    for ax, title, text in zip(axes, ("peak memory, measured", "time, measured"), (_size, _time), strict=True):
        ax.set_title(title, loc="left")
        _axes(ax, x, text)


def _axes(ax, lengths: list[int], text) -> None:
    ax.set_yscale("log")
    style.length_axis(ax, lengths)
    low, high = ax.get_ylim()
    high *= (high / low) ** 0.4  # room for the legend
    ticks = [10.0**k for k in range(-6, 9)] if text is _time else [2.0**k for k in range(0, 60, 5)]
    ax.set_ylim(low, high)
    ax.set_yticks([tick for tick in ticks if low <= tick <= high])
    ax.set_yticks([], minor=True)
    ax.yaxis.set_major_formatter(lambda y, _: text(y))
    ax.legend(loc="upper left", frameon=False, fontsize=8, handlelength=1.8, borderaxespad=0.2, labelspacing=0.25)


def _size(bytes_: float) -> str:
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if bytes_ >= 2**power:
            return f"{bytes_ / 2**power:.3g} {unit}"
    return f"{bytes_:.3g} B"


def _time(ms: float) -> str:
    return f"{ms / 1000:.3g} s" if ms >= 1000 else f"{ms:.3g} ms" if ms >= 0.1 else f"{ms * 1000:.3g} µs"


def _place(device: str) -> str:
    return f"an {recorded.short(device)}" if device.startswith("NVIDIA") else f"one thread of an {device}"


def _alt_measured(records: dict[str, list[Measured]]) -> str:
    if not records:
        return ""
    said = ", ".join(
        f"{style.label(name)} {_size(own[-1].bytes)} and {_time(own[-1].ms)} at {own[-1].seqlen}"
        for name, own in records.items()
    )
    return f" Measured: {said}."
