"""The tables at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from tools import results
from tools.bench.shapes import Shape

BASELINE = "torch_fa2"


def mebibytes(count: float) -> str:
    """A number of bytes, in MiB; in GiB from 10240 MiB on."""
    mib = count / 2**20
    if mib >= 10240:
        return f"{three_digits(mib / 1024)} GiB"
    return f"{three_digits(mib)} MiB"


def milliseconds(ms: float) -> str:
    """A time, in the unit that keeps it short."""
    if ms < 0.1:
        return f"{three_digits(1e3 * ms)} µs"
    return f"{three_digits(ms)} ms" if ms < 1000 else f"{three_digits(ms / 1e3)} s"


def three_digits(x: float) -> str:
    """Three significant digits, two below 0.1; more where the whole part has more."""
    if abs(x) < 0.0995:
        return f"{x:.2g}"
    for decimals, below in ((3, 0.9995), (2, 9.995), (1, 99.95)):
        if abs(x) < below:
            return f"{x:.{decimals}f}"
    return f"{x:.0f}"


def ratio_over_what_is_there(records: Sequence[dict], name: str, headdim: int, causal: bool) -> str:
    """The ratio to the baseline; "(2 of 5)" says how many of its lengths there are, when not all."""
    there = []
    for seqlen in results.RATIO_SEQLENS:
        try:
            results.pair(records, name, BASELINE, headdim=headdim, causal=causal, seqlen=seqlen)
        except results.NoData:
            continue
        there.append(seqlen)
    if not there:
        return "–"
    mean = results.ratio(records, name, BASELINE, headdim=headdim, causal=causal, seqlens=there)
    full = len(there) == len(results.RATIO_SEQLENS)
    return f"{mean:.2f}×" + ("" if full else f" ({len(there)} of {len(results.RATIO_SEQLENS)})")


def tables(records: Sequence[dict]) -> list[Table]:
    """One table a (head dim, mask) of the GPU grid, one for the NumPy grid, one for other shapes."""
    on_grid = [record for record in records if results.on_grid(record)]
    gpu = [record for record in on_grid if record["where"] == "gpu"]
    host = [record for record in on_grid if record["where"] == "host"]
    other = [record for record in records if not results.on_grid(record)]
    made = []
    for headdim, causal in dict.fromkeys((record["headdim"], record["causal"]) for record in gpu):
        rows = [record for record in gpu if (record["headdim"], record["causal"]) == (headdim, causal)]
        made.append(_throughput(rows, headdim, causal))
    for headdim, causal in dict.fromkeys((record["headdim"], record["causal"]) for record in host):
        rows = [record for record in host if (record["headdim"], record["causal"]) == (headdim, causal)]
        made.append(_time_and_memory(rows, headdim, causal))
    if other:
        made.append(_other(other))
    return made


def _lengths(rows: Sequence[dict]) -> list[int]:
    return sorted({record["seqlen_q"] for record in rows})


def _names(rows: Sequence[dict]) -> list[str]:
    return list(dict.fromkeys(record["name"] for record in rows))


def _mask(causal: bool) -> str:
    return "causal" if causal else "not causal"


def _throughput(rows: Sequence[dict], headdim: int, causal: bool) -> Table:
    table = Table(title=f"TFLOP/s, head dim {headdim}, {_mask(causal)}, {rows[0]['dtype']}: {rows[0]['device']}")
    table.add_column("", no_wrap=True)
    for seqlen in _lengths(rows):
        table.add_column(str(seqlen), justify="right")
    table.add_column(f"× {BASELINE}, 1k to 16k", justify="right")
    for name in _names(rows):
        of_length = {record["seqlen_q"]: record for record in rows if record["name"] == name}
        cells = [_cell(of_length.get(seqlen)) for seqlen in _lengths(rows)]
        table.add_row(name, *cells, ratio_over_what_is_there(rows, name, headdim, causal))
    return table


def _cell(record: dict | None) -> str:
    if record is None:
        return "–"
    return three_digits(record["tflops"]) if results.is_timed(record) else "error"


def _time_and_memory(rows: Sequence[dict], headdim: int, causal: bool) -> Table:
    title = f"NumPy: time and memory beside the inputs, head dim {headdim}, {_mask(causal)}: {rows[0]['device']}"
    table = Table(title=title)
    table.add_column("", no_wrap=True)
    table.add_column("")
    for seqlen in _lengths(rows):
        table.add_column(str(seqlen), justify="right")
    for name in _names(rows):
        of_length = {r["seqlen_q"]: r for r in rows if r["name"] == name and results.is_timed(r)}
        for what, key, show in (("time", "ms_median", milliseconds), ("memory", "peak_bytes", mebibytes)):
            cells = (show(of_length[s][key]) if s in of_length else "error" for s in _lengths(rows))
            table.add_row(name, what, *cells)
    return table


def _other(rows: Sequence[dict]) -> Table:
    table = Table(title="Other shapes")
    for column in ("", "shape", "time", "TFLOP/s", "memory"):
        table.add_column(column, justify="left" if column in ("", "shape") else "right")
    for record in rows:
        if results.is_timed(record):
            cells = milliseconds(record["ms_median"]), _cell(record), mebibytes(record["peak_bytes"])
        else:
            cells = "error", "–", "–"
        table.add_row(record["name"], str(Shape.of(record)), *cells)
    return table


def one_line(shape: Shape, records: Sequence[dict]) -> str:
    """A finished shape, in one line."""
    cells = []
    for record in records:
        name = record["name"].partition("_")[0] if record["kind"] == "stage" else record["name"]
        time = milliseconds(record["ms_median"]) if results.is_timed(record) else "error"
        cells.append(f"{name} {time}")
    return f"{shape}: {' · '.join(cells)}"
