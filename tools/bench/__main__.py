"""Time the stages and PyTorch's own kernels, and write every sample to a results file.

Each implementation is checked against the reference before and after it is timed. Stages and peers are
sampled in turns in one process, by device events, with the L2 flushed before every sample. A file that is
there already is gone on with: shapes it has are not measured again. NumPy stages are timed on the CPU, on a
smaller grid of their own, in float32, one thread.

Exit codes: 0 all is measured; 1 a stage was wrong or failed; 2 wrong arguments; 130 interrupted (finished
shapes are kept).
"""

from __future__ import annotations

import os

# Before NumPy loads: on one thread its times are those of its arithmetic, whatever else the machine does.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = os.environ["VECLIB_MAXIMUM_THREADS"] = "1"

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stages import STAGES, Stage, get
from stages.common.where import Where, where
from tools import results
from tools.bench import report, shapes
from tools.bench.devices import DeviceLost, Gpu, Host
from tools.bench.measure import QUICK, Effort
from tools.bench.peers import PEERS
from tools.bench.run import Job, ResultsFile, newest_of, run
from tools.bench.shapes import Shape
from tools.machine import environment, machine

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
LONGEST_FOR_NUMPY = 4096  # beside GPU stages: at 16k it would take minutes


class Usage(Exception):
    """Arguments that cannot be served. The message names the argument."""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--stages",
        type=_stages,
        default="all",
        metavar="S",
        help="all (default), none, or a list: s11,s12_triton_v2",
    )
    p.add_argument(
        "--peers",
        type=_peers,
        default="all",
        metavar="P",
        help=f"all (default), none, or a list of {', '.join(PEERS)}",
    )
    p.add_argument(
        "--shapes", type=_shape_or_grid, nargs="+", metavar="SHAPE", default=["standard"],
        help="standard (default): the papers' grid, 16384 tokens, 2048 wide; short: its lengths 1024 and 4096"
        " at head dim 128; or shapes of your own, each b,sq,sk,h,hk,d,causal: batch, lengths of Q and of K/V,"
        " heads of Q and of K/V, head dim, yes or no (2,4096,4096,16,4,128,yes)",
    )  # fmt: skip
    p.add_argument("--headdims", type=_sizes, metavar="D,...", help="of the grid (default: 64,128; NumPy: 64)")
    p.add_argument(
        "--seqlens",
        type=_sizes,
        metavar="N,...",
        help="of the grid (default: 512 to 16384; NumPy: 128 to 4096)",
    )
    p.add_argument("--causal", choices=("both", "yes", "no"), help="of the grid (default: both; NumPy: no)")
    p.add_argument("--dtype", choices=tuple(DTYPES), default="bf16", help="of the GPU's inputs (default: bf16)")
    p.add_argument(
        "--device",
        choices=("auto", "gpu", "cpu"),
        default="auto",
        help="cpu: NumPy stages only (default: all there is)",
    )
    p.add_argument("--quick", action="store_true", help="as --shapes short, and a third of the samples")
    p.add_argument(
        "--out", type=Path, metavar="FILE", help="results file (default: bench-results/<device>-<date>.json)"
    )
    p.add_argument("--fresh", action="store_true", help="start the file over instead of going on with it")
    return p


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _stages(text: str) -> list[Stage] | str:
    """ "all" stays "all": those that cannot run here are then left out, where a stage that was named is an
    error."""
    if text in ("all", "none"):
        return text if text == "all" else []
    try:
        chosen = {stage.name: stage for stage in map(get, _listed(text))}
    except KeyError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None
    if not chosen:
        raise argparse.ArgumentTypeError(f"{text!r} names no stage; accepted: all, none, or a list such as s11,s12")
    return sorted(chosen.values(), key=lambda stage: stage.number)


def _peers(text: str) -> list[str]:
    if text in ("all", "none"):
        return list(PEERS) if text == "all" else []
    for name in _listed(text):
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"peer is {name!r}; accepted: all, none, {', '.join(PEERS)}")
    return [name for name in PEERS if name in _listed(text)]


def _shape_or_grid(text: str) -> Shape | str:
    if text in ("standard", "short"):
        return text
    try:
        return Shape.parse(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"{problem}; also: standard, short") from None


def _sizes(text: str) -> list[int]:
    for part in _listed(text):
        if not part.isdecimal() or int(part) < 1:
            raise argparse.ArgumentTypeError(f"{part!r} in {text!r}; accepted: whole numbers, 1 or more")
    if not _listed(text):
        raise argparse.ArgumentTypeError(f"{text!r} is empty; accepted: whole numbers, 1 or more")
    return sorted(set(map(int, _listed(text))))


def choose_stages(
    asked: list[Stage] | str, device: str, dtype: torch.dtype
) -> tuple[list[Stage], list[Stage], list[str]]:
    """Those to time on the host, those to time on the GPU, and why the others are not timed.

    Raises Usage for a stage that was named and cannot be timed here.
    """
    host, gpu, left_out = [], [], []
    for stage in STAGES if asked == "all" else asked:
        backend = stage.capability.backend
        name = "float32" if backend == "numpy" else str(dtype).removeprefix("torch.")
        place = where(stage, name)
        if place.kind == "host" and device != "gpu":
            host.append(stage)
        elif place.kind == "gpu" and device != "cpu":
            gpu.append(stage)
        else:
            left_out.append(f"{stage.name}: {_why_not(stage, place, device)}")
    if asked != "all" and left_out:
        raise Usage(f"argument --stages: {'; '.join(left_out)}")
    return host, gpu, left_out


def _why_not(stage: Stage, place: Where, device: str) -> str:
    if place.kind == "host":
        return f"runs on the CPU, and --device is {device}"
    if device == "cpu":
        return "runs on a GPU, and --device is cpu"
    if not torch.cuda.is_available():
        return "is timed on a CUDA GPU only, and PyTorch finds none"
    return f"is timed on the GPU only; here: {place.reason}"


def plan(args, host, gpu, gpu_device, host_device) -> list[Job]:
    """The jobs of this command line, the NumPy stages' first. Raises Usage."""
    effort = QUICK if args.quick else Effort()
    peers = tuple(args.peers) if gpu_device else ()
    own = [shape for shape in args.shapes if isinstance(shape, Shape)]
    grids = [shape for shape in args.shapes if isinstance(shape, str)]
    if own and (grids or args.headdims or args.seqlens or args.causal or args.quick):
        raise Usage(
            "argument --shapes: shapes of your own go without standard, short, --headdims, --seqlens,"
            " --causal and --quick"
        )
    short = args.quick or "short" in grids
    causal = {"yes": (True,), "no": (False,), "both": (False, True)}.get(args.causal)
    jobs: list[Job] = []
    if host:
        if own:
            chosen = [] if gpu or peers else own
        else:
            seqlens = args.seqlens or (shapes.NUMPY_QUICK_SEQLENS if short else shapes.NUMPY_SEQLENS)
            if gpu or peers:
                seqlens = [n for n in seqlens if n <= LONGEST_FOR_NUMPY]
            chosen = shapes.numpy_grid(seqlens, args.headdims or (shapes.NUMPY_HEADDIM,), causal or (False,))
        jobs += [Job(shape, tuple(host), (), host_device, torch.float32, effort) for shape in chosen]
    if gpu or peers:
        if own:
            chosen = own
        else:
            seqlens = args.seqlens or (shapes.QUICK_SEQLENS if short else shapes.SEQLENS)
            headdims = args.headdims or (shapes.QUICK_HEADDIMS if short else shapes.HEADDIMS)
            chosen = shapes.gpu_grid(seqlens, headdims, causal or (False, True))
        for shape in chosen:
            fitting = tuple(s for s in gpu if shape.headdim <= (s.capability.max_headdim or shape.headdim))
            jobs.append(Job(shape, fitting, peers, gpu_device, DTYPES[args.dtype], effort))
    jobs = [job for job in dict.fromkeys(jobs) if job.names]
    if not jobs:
        raise Usage("arguments --stages, --peers and the shapes leave nothing to time")
    return jobs


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        return bench(args, console)
    except Usage as problem:
        p.error(str(problem))  # exits 2
    except KeyboardInterrupt:
        console.print("[yellow]Interrupted.[/] What was finished is kept; the same command goes on from there.")
        return 130


def bench(args, console: Console) -> int:
    if args.device == "gpu" and not torch.cuda.is_available():
        raise Usage("argument --device: is gpu, and PyTorch finds no CUDA GPU; accepted here: auto, cpu")
    host, gpu, left_out = choose_stages(args.stages, args.device, DTYPES[args.dtype])
    if torch.cuda.is_available():
        for line in left_out:
            console.print(f"not timed: {line}")
    elif left_out:
        console.print("PyTorch finds no CUDA GPU: the GPU stages and the peers need one, NumPy stages are timed.")
    wants_gpu = torch.cuda.is_available() and args.device != "cpu" and (gpu or args.peers)
    gpu_device = Gpu() if wants_gpu else None
    jobs = plan(args, host, gpu, gpu_device, Host(machine().cpu))

    here = environment()
    out = args.out or Path("bench-results") / f"{results.slug(here['device'])}-{here['date'][:10]}.json"
    file = _open(out, here, args.fresh)
    to_do = [job for job in jobs if not file.has(job)]
    if len(to_do) < len(jobs):
        console.print(f"{len(jobs) - len(to_do)} of {len(jobs)} shapes are in {out} already.")
    try:
        _measure(to_do, file, gpu_device, DTYPES[args.dtype], console)
    except DeviceLost as lost:
        console.print(f"[red]Stopped:[/] {lost}\nThe shapes before it are in {out}.")
        return 1

    records = newest_of(jobs, file.records)
    tables = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for table in report.tables(records):
        tables.print(table)
    failures = [record for record in records if not results.is_timed(record)]
    for record in failures:
        colour = "red" if record["kind"] == "stage" else "yellow"
        error = escape(record["error"])
        console.print(f"[{colour}]{record['name']}[/] at {Shape.of(record)}: {error}")
    console.print(f"Written: {out}")
    return 1 if any(record["kind"] == "stage" for record in failures) else 0


def _open(out: Path, here: dict, fresh: bool) -> ResultsFile:
    if out.is_dir():
        raise Usage(f"argument --out: {out} is a folder; accepted: a file to write")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return ResultsFile.open(out, here, fresh=fresh)
    except results.ResultsError as problem:
        raise Usage(f"argument --out: {problem}; --fresh starts it over") from None
    except OSError as problem:
        raise Usage(f"argument --out: {out} cannot be written: {problem.strerror}") from None


def _measure(jobs: Sequence[Job], file: ResultsFile, gpu: Gpu | None, dtype: torch.dtype, console: Console) -> None:
    """Measure `jobs` into `file`, with a progress bar and a line for every finished shape."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("shapes"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=len(jobs), now="")
        if any(job.device is gpu for job in jobs):
            bar.update(task, now="the GPU's ceilings")
            file.environment["sms"] = gpu.sms
            file.environment["ceilings"] = _ceilings(gpu, dtype, console)

        def progress(job: Job, what: str) -> None:
            bar.update(task, now=f"{job.shape.short}: {what}")

        def finished(job: Job, records: list[dict]) -> None:
            bar.update(task, advance=1, now="")
            console.print(report.one_line(job.shape, records))

        run(jobs, file, progress, finished)


def _ceilings(gpu: Gpu, dtype: torch.dtype, console: Console) -> dict | None:
    try:
        return gpu.ceilings(dtype)
    except RuntimeError as problem:  # a small GPU may not have the memory
        gpu.assert_alive()
        console.print(f"ceilings not measured: {escape(str(problem).strip().partition(chr(10))[0])}")
        return None


if __name__ == "__main__":
    sys.exit(main())
