"""Find the fastest tile configuration of a CUDA stage on this GPU, for each head dim with and without mask.

    python -m tools.autotune s31                           tune a stage, record docs/results/autotune/<device>.json
    python -m tools.autotune all                           every stage that takes tiles
    python -m tools.autotune s31 --explain                 what is not tried, and why
    python -m tools.autotune s31 --compile-only --arch 89  what is left after compiling; needs no GPU

What cannot run or spills registers is dropped without being run. The others are timed in bf16 on the bench grid, in
turns and checked against the reference: all on a short length, the best on longer ones. The objective is the harmonic
mean of TFLOP/s over the lengths 1024, 4096 and 16384. What a file has of the kernels as they are is not measured again;
its other entries are kept.

Exit codes: 0 all is tuned; 1 a part could not be, or the GPU was lost (run the same command again: what took the GPU
along is then left out); 2 wrong arguments; 130 interrupted (finished parts are kept).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stages import get
from stages.common.record import Stage
from stages.common.where import gpu_arch, installed


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.autotune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("stages", nargs="+", metavar="STAGE", help="stages that take tiles (s31 s32), or all")
    p.add_argument("--headdims", metavar="D,...", help="head dims (default: all that a stage has)")
    p.add_argument("--causal", choices=("both", "yes", "no"), default="both", help="default: both")
    p.add_argument("--out", type=Path, metavar="FILE", help="default: docs/results/autotune/<device>.json")
    p.add_argument("--fresh", action="store_true", help="measure again what the file has of these stages")
    p.add_argument("--compile-only", action="store_true", help="stop after the compiler's verdict; needs no GPU")
    p.add_argument("--explain", action="store_true", help="print what is not tried and why; alone, compile nothing")
    p.add_argument("--arch", help="for --compile-only and --explain: 80, 89, 90a (default: the GPU's, or 90a)")
    p.add_argument("--jobs", type=int, help="compilers at once (default: two fewer than cores, with no GPU all)")
    p.add_argument("--best", type=int, default=10, metavar="N", help="rows of the tables at the end (default: 10)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for module, package in (("torch", "torch"), ("cupy_backends", "cupy-cuda13x")):
        if not installed(module):
            console.print(f"needs {package}, which is not installed; `make doctor` says how to get it")
            return 1
    for name, least in (("jobs", 1), ("best", 1)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            p.error(f"argument --{name}: is {getattr(args, name)}; accepted: {least} or more")
    dry = args.explain or args.compile_only
    if dry and (args.out or args.fresh):
        p.error("--out and --fresh go with measuring, not with --compile-only and --explain")
    if args.arch and not dry:
        p.error("argument --arch: goes with --compile-only and --explain; what is measured is of the GPU that is here")
    arch = args.arch or (str(gpu_arch()) if gpu_arch() else "90a")
    from tools.autotune.space import number

    try:
        number(arch)
    except ValueError as problem:
        p.error(f"argument --arch: {problem}")
    chosen = _parts(p, args)
    try:
        if dry:
            return explain(chosen, arch, args, console)
        return tune(p, chosen, arch, args, console)
    except BrokenProcessPool:
        console.print("[red]Stopped:[/] a compiler died, perhaps for lack of memory; --jobs takes fewer at once.")
        return 1
    except KeyboardInterrupt:
        console.print("[yellow]Interrupted.[/] What was finished is kept; the same command goes on from there.")
        return 130


def _parts(p: argparse.ArgumentParser, args) -> list:
    from tools.autotune import space

    takes = space.tunable()
    accepted = f"accepted: {', '.join(stage.short for stage in takes)}, all"
    asked: dict[Stage, None] = {}
    for name in [part for text in args.stages for part in text.split(",") if part]:
        try:
            found = takes if name == "all" else [get(name)]
        except KeyError as unknown:
            p.error(f"argument STAGE: {unknown}")
        for stage in found:
            if stage not in takes:
                p.error(f"argument STAGE: {stage.name} takes no tiles; {accepted}")
            asked[stage] = None
    headdims = None
    if args.headdims is not None:
        there = sorted({headdim for stage in asked for headdim in stage.capability.headdims})
        for text in args.headdims.split(","):
            if not text.isdecimal() or int(text) not in there:
                p.error(f"argument --headdims: is {text!r}; accepted: {', '.join(map(str, there))}")
        headdims = [int(text) for text in args.headdims.split(",")]
    causal = {"both": (False, True), "yes": (True,), "no": (False,)}[args.causal]
    chosen = space.parts(list(asked), headdims, causal)
    if not chosen:
        p.error("argument STAGE: names no stage")
    return chosen


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _progress(console: Console, unit: str) -> Progress:
    what = TextColumn("{task.fields[now]}")
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(), what)
    return Progress(*columns, console=console)


def explain(chosen: list, arch: str, args, console: Console) -> int:
    """What is dropped of each part by arithmetic, and, if asked, by the compiler; nothing is measured."""
    from tools.autotune import prune, show, space
    from tools.autotune.run import Pruning
    from tools.nvrtc import processes

    tables = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    if not args.compile_only:
        for part in chosen:
            legal, dropped = space.split(part, space.number(arch))
            tables.print(show.explained(part, len(legal), dropped))
            tables.print(f"{part}, sm_{arch}: {len(legal)} are left; dropped by {show.counted(dropped)}")
        return 0
    empty = []
    with processes(args.jobs or cores()) as pool, _progress(console, "parts") as bar:
        task = bar.add_task("", total=len(chosen), now="")
        for part in chosen:
            pruning = Pruning(part, arch, pool)
            fates = pruning.fates(lambda done, of, part=part: bar.update(task, now=f"{part}: compiling {done} of {of}"))
            first = [fate.tiles for fate in fates if isinstance(fate, prune.Kept)]
            dropped = pruning.illegal + [fate for fate in fates if isinstance(fate, space.Dropped)]
            others = pruning.others(first)
            for done, _ in enumerate(as_completed(others), start=1):
                bar.update(task, now=f"{part}: the other instantiations of {done} of {len(others)}")
            last = [future.result() for future in others]
            dropped += [fate for fate in last if isinstance(fate, space.Dropped)]
            clean = [fate.tiles for fate in last if isinstance(fate, prune.Kept)]
            registers = {fate.tiles: fate.registers for fate in fates if isinstance(fate, prune.Kept)}
            bar.update(task, advance=1, now="")
            if args.explain:
                tables.print(show.explained(part, len(clean), dropped))
            tables.print(show.survivors(part, [(tiles, registers[tiles]) for tiles in clean], arch))
            tables.print(f"{part}, sm_{arch}: {len(clean)} are left; dropped by {show.counted(dropped)}")
            if not clean:
                empty.append(part)
    return 1 if empty else 0


def tune(p: argparse.ArgumentParser, chosen: list, arch: str, args, console: Console) -> int:
    import torch

    from stages.common.tiles import table_file
    from stages.common.where import where
    from tools.autotune import show
    from tools.autotune.gpu import ConfigurationLost
    from tools.autotune.run import tune as run
    from tools.autotune.table import open_table
    from tools.bench.devices import Gpu
    from tools.machine import environment
    from tools.nvrtc import processes
    from tools.results import ResultsError

    if not torch.cuda.is_available():
        p.error("needs a CUDA GPU, and PyTorch finds none; --compile-only and --explain work without")
    for stage in dict.fromkeys(part.stage for part in chosen):
        place = where(stage, "bfloat16")
        if place.kind != "gpu":
            p.error(f"argument STAGE: {stage.name} would not run on the GPU here: {place.reason}")
    here = environment()
    out = args.out or table_file(here["device"])
    if out.is_dir():
        p.error(f"argument --out: {out} is a folder; accepted: a file to write")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        table = open_table(out, here)
    except ResultsError as problem:
        p.error(f"argument --out: {problem}")
    except OSError as problem:
        p.error(f"argument --out: {out} cannot be written: {problem.strerror}")
    if args.fresh:
        for part in chosen:
            table.forget(part)
    to_do = [part for part in chosen if not table.has(part)]
    if len(to_do) < len(chosen):
        console.print(f"{len(chosen) - len(to_do)} of {len(chosen)} parts are in {out} already; --fresh measures anew.")
    problems: list[str] = []
    if to_do:
        device = Gpu()
        with processes(args.jobs or max(1, cores() - 2)) as pool, _progress(console, "parts") as bar:
            task = bar.add_task("", total=len(to_do), now="")

            def finished(part, dropped) -> None:
                bar.update(task, advance=1, now="")
                (choice,) = table.of(part, "chosen")
                rates = f"{choice['tflops']:.0f} TFLOP/s, default {choice['default'] or float('nan'):.0f}"
                console.print(f"{part}: {choice['tiles']}: {rates}; dropped by {show.counted(dropped)}")

            try:
                problems = run(
                    to_do,
                    table,
                    arch,
                    pool,
                    device,
                    lambda part, what: bar.update(task, now=f"{part}: {what}"),
                    finished,
                )
            except ConfigurationLost as lost:
                console.print(f"[red]Stopped:[/] the GPU was lost: {escape(str(lost))}. Run the same command again.")
                return 1
    tables = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for part in chosen:
        if table.has(part):
            tables.print(show.best(table, part, args.best))
    for problem in problems:
        console.print(f"[red]not tuned:[/] {escape(problem)}")
    if out.exists():
        console.print(f"Written: {out}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
