"""Try small ideas on the final CUDA kernel, one at a time: checked, and timed in turns with the kernel as it is.

    python -m tools.ablate                             measure all; the data goes to docs/results/ablation/
    python -m tools.ablate --toggles overlap_q         only some
    python -m tools.ablate --together overlap_q,prefetch_128    one more row, with these at once
    python -m tools.ablate --list                      what there is, and why; needs no GPU
    python -m tools.ablate --check                     compile all for sm_90a and run them in the emulator; needs no GPU

The ideas are pieces of text to replace: tools/ablate/toggles.py. Every round samples each variant once, and a sample
is compared with the unchanged kernel's of the same round: from round to round the GPU's clock moves by more than most
ideas bring. The table says "none" where the rounds do not tell faster from slower, and below 0.2 %; a second, unchanged
copy of the kernel shows what none looks like.

Exit codes: 0 all is well; 1 no GPU, a toggle that is out of date, does not compile, fails or is wrong; 2 wrong
arguments; 130 interrupted (finished shapes are kept).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stages.common.cuda import specialise
from stages.common.where import where
from tools import nvrtc, results
from tools.ablate.table import rows
from tools.ablate.toggles import STAGE, TOGGLES, Toggle
from tools.ablate.variants import OutOfDate, Variant, compile_on_gpu, find, variants
from tools.bench.shapes import Shape, grid_shape

RESULTS_DIR = results.RESULTS_DIR / "ablation"
SHAPES = tuple(grid_shape(4096, headdim, causal) for headdim in (64, 128) for causal in (False, True))
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SAMPLES = 60


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.ablate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--list", action="store_true", help="list the toggles and stop")
    p.add_argument("--check", action="store_true", help="compile and emulate each, and time nothing")
    p.add_argument("--toggles", type=_toggles, default=TOGGLES, metavar="NAME,...", help="default: all")
    p.add_argument(
        "--together", type=_toggles, default=(), metavar="NAME,...", help="one more variant, with all of these"
    )
    p.add_argument(
        "--shapes", type=_shape, nargs="+", default=list(SHAPES), metavar="SHAPE",
        help="b,sq,sk,h,hk,d,causal (default: the grid's length 4096, both head dims and masks)",
    )  # fmt: skip
    p.add_argument("--dtype", choices=tuple(DTYPES), default="bf16", help="default: bf16")
    p.add_argument("--samples", type=int, default=SAMPLES, help=f"of each variant at each shape (default: {SAMPLES})")
    p.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1), help="compilers at once (default: up to 8)")
    p.add_argument("--out", type=Path, metavar="FILE", help="default: docs/results/ablation/<device>.json")
    return p


def _toggles(text: str) -> tuple[Toggle, ...]:
    try:
        return tuple(dict.fromkeys(find(name.strip()) for name in text.split(",") if name.strip()))
    except KeyError as unknown:
        raise argparse.ArgumentTypeError(unknown.args[0]) from None


def _shape(text: str) -> Shape:
    try:
        shape = Shape.parse(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None
    if shape.headdim > STAGE.capability.max_headdim:
        raise argparse.ArgumentTypeError(f"headdim is {shape.headdim}; accepted: 1 to {STAGE.capability.max_headdim}")
    return shape


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    for name in ("samples", "jobs"):
        if getattr(args, name) < 1:
            p.error(f"argument --{name}: is {getattr(args, name)}; accepted: 1 or more")
    if args.out is not None and args.out.is_dir():
        p.error(f"argument --out: {args.out} is a folder; accepted: a file to write")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        if args.list:
            return show_list()
        with tempfile.TemporaryDirectory(prefix="ablate-") as folder:
            made = variants(args.toggles, Path(folder), args.together)
            for variant in made:
                _ = variant.attention  # out of date: before anything is measured
            return check(made, args.jobs, console) if args.check else measure(made, args, console)
    except OutOfDate as problem:
        console.print(escape(str(problem)))
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted. What was finished is kept.")
        return 130


def show_list() -> int:
    table = Table("toggle", "what it does", "why", title=f"Toggles of {STAGE.name}")
    for toggle in TOGGLES:
        table.add_row(toggle.name, escape(toggle.idea), escape(toggle.why))
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)
    return 0


# ---- without a GPU --------------------------------------------------------------------------------------------------


def jobs_of(variant: Variant, arch: str = "90a") -> list[nvrtc.Job]:
    """What the compiler is given for a variant: both head dims, causal, with the default tiles."""
    made = (
        nvrtc.job(variant.stage, f"attention_kernel<bf16, {headdim}, true>", arch)
        for headdim in STAGE.capability.headdims
    )
    # Not the temporary file's name: it would be another for nvrtc's cache each time.
    return [dataclasses.replace(job, file=f"{variant.name}/kernel.cu") for job in made]


def check_cases(dtype: str = "float16") -> list:
    """What a variant has to pass in the emulator: ragged, causal, grouped heads, rows without keys, spikes."""
    from reference import Case

    return [
        Case(dtype, 64, 70, 330, causal=True, family="spikes", nheads=4, nheads_k=2),
        Case(dtype, 128, 130, 200, batch=2, nheads=2, nheads_k=1),
        Case(dtype, 64, 300, 90, causal=True, nheads=1, nheads_k=1),
    ]


def failures(variant: Variant) -> list[str]:
    """What the emulator, or the GPU, finds wrong with a variant."""
    from reference import check as judge_case

    found = []
    for case in check_cases():
        verdict = judge_case(STAGE, case, attention=variant.attention)
        if not verdict.ok:
            found.append(f"{case}: {verdict}")
    return found


def check(made: Sequence[Variant], jobs: int, console: Console) -> int:
    from tools.emulator import KernelError

    place = where(STAGE, "float16")
    if not place:
        console.print(f"cannot run here: {place.reason}")
        return 1
    bad = 0
    compiled = [job for variant in made for job in jobs_of(variant)]
    try:
        for job, result in zip(compiled, nvrtc.in_processes(nvrtc.run, compiled, jobs), strict=True):
            if result.spilled:
                console.print(f"{job}: {result.spilled} bytes of spills")
    except nvrtc.CompileError as problem:
        console.print(escape(str(problem)))
        return 1
    for variant in made:
        try:
            problems = failures(variant)
        except KernelError as error:
            problems = [str(error)]
        bad |= bool(problems)
        console.print(f"{variant.name}: {escape('; '.join(problems)) or 'compiles, and is right'}")
    return int(bad)


# ---- on a GPU -------------------------------------------------------------------------------------------------------


def measure(made: Sequence[Variant], args, console: Console) -> int:
    from tools.bench.devices import DeviceLost, Gpu
    from tools.bench.measure import Effort
    from tools.bench.run import Job, ResultsFile, run
    from tools.machine import environment

    place = where(STAGE, str(DTYPES[args.dtype]).removeprefix("torch."))
    if place.kind != "gpu":
        console.print(f"needs a CUDA GPU; here: {place.reason}. --check needs none.")
        return 1
    dtype = DTYPES[args.dtype]
    gpu, here = Gpu(), environment()
    here |= {"stage": STAGE.name, "source": nvrtc.source_hash(STAGE), "sms": gpu.sms}
    out = args.out or RESULTS_DIR / f"{results.slug(here['device'])}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    file = ResultsFile.open(out, here, fresh=True)
    plain = [Variant(v.name, v.toggles, v.folder) for v in made]  # without the modules, which do not go to a process
    todo = [(variant, shape, dtype) for variant in plain for shape in args.shapes]
    for i, _ in enumerate(nvrtc.in_processes(compile_on_gpu, todo, args.jobs), start=1):
        console.print(f"compiled {i} of {len(todo)}", end="\r" if console.is_terminal and i < len(todo) else "\n")
    effort = Effort(rounds=args.samples, budget_ms=1e9)
    jobs = [Job(shape, tuple(made), (), gpu, dtype, effort) for shape in args.shapes]
    try:
        with specialise("now"):
            run(jobs, file, finished=lambda job, records: console.print(f"measured: {job.shape}"))
    except DeviceLost as lost:
        console.print(f"[red]Stopped:[/] {escape(str(lost))}")
        return 1
    show(file.records)
    bad = [record for record in file.records if not results.is_timed(record)]
    for record in bad:
        console.print(f"[red]{record['name']}[/] at {Shape.of(record)}: {escape(record['error'])}")
    console.print(f"Written: {out}")
    return 1 if bad else 0


def show(records: Sequence[dict]) -> None:
    header, body = rows(records)
    table = Table(title=f"Throughput of {STAGE.name} with one thing changed")
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < 2 else "right")
    for row in body:
        table.add_row(*map(escape, row))
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)


if __name__ == "__main__":
    sys.exit(main())
