"""Run every stage that this machine can run on real activations, and draw the plots of the recorded results.

The inputs are Q, K and V of a small pretrained transformer's attention layers on a real text
(reference/activations/README.md), each layer with and without a causal mask, in 16 bits: bfloat16 on a GPU that
has it, else float16. Each result is judged as in the test suite: the table has the worst error of any layer and head,
and the bound that it has to keep. time is the median of one layer; extra memory is what a call holds at its peak
beyond inputs and outputs.

Exit codes: 0 every stage that ran is right; 1 one is wrong, or none runs here; 2 wrong arguments;
130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from reference import Case, Verdict, check
from reference.activations_io import load_activations
from reference.inputs import captured_shape
from stages import STAGES, Stage, StageUnavailable, get
from stages.common.where import Where, where
from tools import results
from tools.plot.__main__ import main as plot

ROOT = Path(__file__).resolve().parent.parent
PLOTS = ROOT / "build" / "plots"
WITH_IDEAS = 110  # columns from which a stage's idea has room beside the numbers
PLACES = {"host": "CPU", "gpu": "GPU", "interpreter": "interpreter", "emulator": "emulator"}


@dataclass
class Row:
    """What the table says of one stage."""

    stage: Stage
    place: Where
    dtype: str = ""
    verdicts: list[Verdict] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    extra_bytes: int | None = None  # None: not measured
    error: str = ""

    @property
    def worst(self) -> Verdict:
        """The verdict nearest to its bound, or past it."""
        return max(self.verdicts, key=lambda v: (not v.ok, v.error / v.bound if v.bound else 0.0))

    @property
    def ok(self) -> bool:
        return not self.error and all(verdict.ok for verdict in self.verdicts)


def dtype_for(stage: Stage) -> str:
    """The 16-bit dtype that the stage is shown in here: bfloat16 on a GPU that has it; float16 elsewhere."""
    return "bfloat16" if where(stage, "bfloat16").kind == "gpu" else "float16"


def cases_for(row: Row) -> list[Case]:
    """Every captured layer whole, with and without a causal mask."""
    seqlen, nheads, headdim = captured_shape()
    return [
        Case(row.dtype, headdim, seqlen, seqlen, causal, 1, nheads, nheads, "activations", seed=layer)
        for layer in range(len(load_activations()))
        for causal in (False, True)
    ]


class Timed:
    """The stage's `attention`; every call is timed, on a GPU after a first one that compiles."""

    def __init__(self, row: Row):
        self.row, self.gpu = row, row.place.kind == "gpu"

    def __call__(self, *args, **kwargs):
        attention = self.row.stage.attention
        if self.gpu:
            attention(*args, **kwargs)
            torch.cuda.synchronize()
        begin = time.perf_counter()
        result = attention(*args, **kwargs)
        if self.gpu:
            torch.cuda.synchronize()
        self.row.seconds.append(time.perf_counter() - begin)
        return result


def extra_memory(row: Row, case: Case) -> int | None:
    """Bytes that a call holds at its peak beyond inputs, out and lse: NumPy's, or the GPU's; None if interpreted."""
    if row.place.kind not in ("host", "gpu"):
        return None
    q, k, v = case.inputs(row.place.device)
    out = torch.empty_like(q)
    lse = torch.empty(case.batch, case.nheads, case.seqlen_q, device=q.device)
    arguments = dict(causal=case.causal, out=out, lse=lse)
    if row.place.kind == "gpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        row.stage.attention(q, k, v, **arguments)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    tracemalloc.start()
    try:
        row.stage.attention(q, k, v, **arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def run(row: Row, advance) -> None:
    """Fill in the row, calling `advance()` after every case."""
    try:
        cases = cases_for(row)
        for case in cases:
            row.verdicts.append(check(row.stage, case, attention=Timed(row)))
            advance()
        row.extra_bytes = extra_memory(row, cases[0])
    except StageUnavailable as missing:
        row.place = Where(None, str(missing))
    except Exception as error:
        row.error = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def readable(seconds: float) -> str:
    unit, factor = next((u, f) for u, f in (("s", 1), ("ms", 1e3), ("µs", 1e6)) if seconds * f >= 1 or u == "µs")
    return f"{three_digits(seconds * factor)} {unit}"


def readable_bytes(count: int | None) -> str:
    if count is None:
        return "—"
    unit, size = next(
        (u, s) for u, s in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1)) if count >= s or s == 1
    )
    return f"{three_digits(count / size)} {unit}"


def show(console: Console, rows: Sequence[Row]) -> None:
    """The table, and under it what is wrong with whom."""
    seqlen, nheads, headdim = captured_shape()
    layers = load_activations()
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"{len(layers)} attention layers of {layers[0].source.get('model', 'a pretrained model')}: "
        f"{seqlen} tokens, {nheads} heads of {headdim}; with and without a causal mask",
    )
    with_ideas = console.width >= WITH_IDEAS
    if with_ideas:
        table.add_column("stage: idea", ratio=1)
    else:
        table.add_column("stage", no_wrap=True)
    table.add_column("ran on")
    for name in ("worst error\nits bound", "time", "extra\nmemory"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for row in rows:
        what = f"[bold]{row.stage.name}[/]" + (f"\n{escape(row.stage.idea)}" if with_ideas else "")
        if not row.place:
            table.add_row(what, "not here", "—", "—", "—", "—")
            continue
        ran_on = f"{PLACES[row.place.kind]}\n{row.dtype}"
        verdict = "[green]right[/]" if row.ok else "[bold red]WRONG[/]"
        if not row.verdicts or not row.seconds:
            table.add_row(what, ran_on, "—", "—", "—", verdict)
            continue
        numbers = f"{row.worst.error:.1e}\n{row.worst.bound:.1e}"
        median = readable(statistics.median(row.seconds))
        table.add_row(what, ran_on, numbers, median, readable_bytes(row.extra_bytes), verdict)
    console.print(table)
    for row in rows:
        if not row.place:
            console.print(f"{row.stage.name} did not run: {escape(row.place.reason)}")
        elif not row.ok:
            console.print(f"[red]{row.stage.name} is wrong: {escape(row.error or row.worst.problem)}[/]")


def show_plots(console: Console) -> None:
    """Draw the plots of the committed results, say whose those are and where they are."""
    if not results.committed():
        console.print("\nNo plots: there are no recorded results in docs/results yet. `make bench` makes some.")
        return
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = plot(["--out", str(PLOTS)])
    pictures = [line for line in said.getvalue().split("\n") if line.endswith(".png")]
    console.print(
        f"\nThe results recorded in docs/results, in {len(pictures)} plots in {escape(os.path.relpath(PLOTS))}:"
    )
    for picture in pictures:
        console.print(f"  {escape(Path(picture).name)}")
    if status:
        console.print("[yellow]Some could not be drawn; the reason is above.[/]")


def show_next(console: Console, rows: Sequence[Row]) -> None:
    example = next((row.stage for row in rows if row.place and row.stage.parent), STAGES[0])  # the first with a diff
    first = STAGES[0]
    console.print("\nWhat next?")
    console.print(f"  learn    `make lab` opens the lessons; the first is notebooks/{first.name}.ipynb")
    console.print(
        f"  change   stages/{example.name}/{example.kernel_file.name}; `make check STAGE={example.short}` judges it"
    )
    if any(row.place.kind == "gpu" for row in rows):
        console.print("  measure  `make bench`, then `make plots`")
    if not all(row.place for row in rows):
        console.print("  doctor   `make doctor` says what the other stages need")


def _stages(text: str) -> list[Stage]:
    try:
        return [get(name) for name in text.split(",")]
    except KeyError as unknown:
        raise argparse.ArgumentTypeError(str(unknown)) from None


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--stages", type=_stages, default=list(STAGES), metavar="S,...", help="s02,s12 (default: all)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    console = Console(highlight=False)
    rows = [Row(stage, where(stage, dtype_for(stage)), dtype_for(stage)) for stage in args.stages]
    running = [row for row in rows if row.place]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    interrupted = False
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=sum(len(cases_for(row)) for row in running))
            for row in running:
                progress.update(task, description=row.stage.name)
                run(row, lambda: progress.advance(task))
    except KeyboardInterrupt:
        interrupted = True
        rows = [row for row in rows if row.verdicts or row.error or not row.place]
    show(console, rows)
    if interrupted:
        console.print("[yellow]interrupted[/]")
        return 130
    show_plots(console)
    show_next(console, rows)
    ran = [row for row in rows if row.place]
    return 0 if ran and all(row.ok for row in ran) else 1


if __name__ == "__main__":
    sys.exit(main())
