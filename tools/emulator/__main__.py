"""Run CUDA stages on the CPU and see what their kernels do, line by line: no GPU needed.

    python -m tools.emulator s20                       the annotated source, totals, findings
    python -m tools.emulator s20 s21 --summary         two stages side by side
    python -m tools.emulator my/kernel.cu --like s20   an edited copy, launched as s20 is
    python -m tools.emulator banks --help              which lanes meet in which bank of shared memory
    python -m tools.emulator fragments --help          which lane holds which element of a matrix fragment

Counters stand at the line of kernel.cu that calls the instruction. "ways" are the wavefronts of its worst pass
over shared memory; "ideal" is what it would take without bank conflicts, or if every byte of a sector were used.
Lines that make up a tenth or more of all instructions, wavefronts or sectors are highlighted.

Exit codes: 0 the result is right and nothing was found; 1 it is wrong, there are findings, or a kernel does not
compile; 2 wrong arguments; 3 no C++ compiler; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from reference import Case
from stages import STAGES, get
from stages.common.record import Stage
from tools.edited import edited
from tools.emulator.build import CompileError, missing
from tools.emulator.session import ASYNCHRONOUS, SCHEDULES, Settings

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "bfloat16": "bfloat16", "float16": "float16"}
NO_COMPILER = 3
WIDTH = 200  # of what goes to a file or a pipe


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"is {text!r}; accepted: 1 or more")
    return int(text)


def seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"is {text!r}; accepted: 0 to {(1 << 32) - 1}")
    return int(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"is {text!r}; accepted: seconds above 0")
    return value


def output(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise argparse.ArgumentTypeError(f"is {text!r}; accepted: a file in a folder that is there")
    return path


def add_kernels(p: argparse.ArgumentParser, **options) -> None:
    """Arguments that `kernels` turns into stages."""
    p.add_argument("kernels", metavar="KERNEL", help="a CUDA stage (s20, 20, s20_mma) or a kernel.cu", **options)
    p.add_argument("--like", metavar="STAGE", help="the stage that launches a kernel.cu (default: the one before it)")
    p.add_argument("--headdim", type=positive, default=128, metavar="D", help="default: %(default)s")
    p.add_argument("--dtype", choices=tuple(DTYPES), default="bf16", help="default: %(default)s")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.emulator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_kernels(p, nargs="+")
    shape = p.add_argument_group("the inputs, drawn from a normal distribution")
    shape.add_argument("--seqlen", type=positive, default=256, metavar="N", help="queries (default: %(default)s)")
    shape.add_argument("--seqlen-k", type=positive, metavar="N", help="keys (default: as many)")
    shape.add_argument("--batch", type=positive, default=1, metavar="N", help="default: %(default)s")
    shape.add_argument("--heads", type=positive, default=2, metavar="N", help="default: %(default)s")
    shape.add_argument("--kv-heads", type=positive, metavar="N", help="default: as many as --heads")
    shape.add_argument("--causal", action="store_true")
    shape.add_argument("--seed", type=seed, default=1, help="of the inputs and of the random order of threads")
    how = p.add_argument_group("how it runs")
    how.add_argument("--schedule", choices=SCHEDULES, default="forward", help="order of threads (default: %(default)s)")
    how.add_argument("--async", dest="asynchronous", choices=ASYNCHRONOUS, default="late",
                     help="cp.async lands late, at the wait that guarantees it, or early, when issued")  # fmt: skip
    how.add_argument("--no-races", dest="races", action="store_false", help="do not look for races: faster")
    how.add_argument("--limit", type=seconds, default=600.0, metavar="S", help="CPU seconds until it counts as hanging")
    shown = p.add_argument_group("what is shown")
    shown.add_argument("--all", action="store_true", help="the whole file, not only what is near counted lines")
    shown.add_argument("--summary", action="store_true", help="no source")
    shown.add_argument("--html", type=output, metavar="FILE", help="the same as a page that needs nothing else")
    shown.add_argument("--json", type=output, metavar="FILE", help="all counters and findings as data")
    return p


def cuda_stage(p: argparse.ArgumentParser, argument: str, name: str) -> Stage:
    try:
        stage = get(name)
    except KeyError as unknown:
        p.error(f"argument {argument}: {unknown}")
    if stage.capability.backend != "cuda":
        takes = ", ".join(s.short for s in STAGES if s.capability.backend == "cuda")
        p.error(f"argument {argument}: {stage.name} is no CUDA stage; accepted: {takes}, or a kernel.cu")
    return stage


def kernels(p: argparse.ArgumentParser, args: argparse.Namespace) -> list[tuple[str, Stage]]:
    """(what the user calls it, stage) of each KERNEL; one that is a file is launched as --like says, or as the stage
    before it, or as the stage whose kernel it is."""
    found: list[tuple[str, Stage]] = []
    like = cuda_stage(p, "--like", args.like) if args.like else None
    given = [args.kernels] if isinstance(args.kernels, str) else args.kernels
    before = None
    for name in given:
        if not name.endswith(".cu"):
            before = cuda_stage(p, "KERNEL", name)
            found.append((before.short, before))
            continue
        path = Path(name)
        if not path.is_file():
            p.error(f"argument KERNEL: {name} is no file")
        own = next((s for s in STAGES if s.kernel_file == path.resolve()), None)
        launcher = like or before or own
        if launcher is None:
            p.error(f"argument KERNEL: {name} is a file; --like says which stage launches it (--like s20)")
        found.append((name, edited(launcher, path)))
    for label, stage in found:
        if DTYPES[args.dtype] not in stage.capability.dtypes:
            p.error(f"argument --dtype: is {args.dtype}; {label} takes {', '.join(stage.capability.dtypes)}")
        if args.headdim > (stage.capability.max_headdim or args.headdim):
            p.error(f"argument --headdim: is {args.headdim}; {label} takes 1 to {stage.capability.max_headdim}")
    return found


def lacks_compiler() -> bool:
    """Says so on standard error if there is none."""
    lacking = missing()
    if lacking:
        print(lacking, file=sys.stderr)
    return lacking is not None


def console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)


def runs(chosen: Sequence[tuple[str, Stage]], case: Case, settings: Settings) -> list:
    from tools.emulator.run import run

    said = Console(stderr=True)
    done = []
    with said.status("") as status:
        for label, stage in chosen:
            status.update(f"{label}: compiling and running")
            done.append(run(label, stage, case, settings))
    return done


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == ["banks"]:
        from tools.emulator.banks import main as banks

        return banks(argv[1:])
    if argv[:1] == ["fragments"]:
        from tools.emulator.fragments import main as fragments

        return fragments(argv[1:])
    p = parser()
    args = p.parse_args(argv)
    kv_heads = args.kv_heads or args.heads
    if args.heads % kv_heads:
        p.error(f"argument --kv-heads: is {kv_heads}; accepted: a divisor of --heads, {args.heads}")
    chosen = kernels(p, args)
    if lacks_compiler():
        return NO_COMPILER
    case = Case(
        dtype=DTYPES[args.dtype],
        headdim=args.headdim,
        seqlen_q=args.seqlen,
        seqlen_k=args.seqlen_k or args.seqlen,
        causal=args.causal,
        batch=args.batch,
        nheads=args.heads,
        nheads_k=kv_heads,
        seed=args.seed,
    )
    settings = Settings(args.asynchronous, args.schedule, args.seed, args.races, limit_s=args.limit)
    try:
        done = runs(chosen, case, settings)
    except CompileError as refused:
        print(refused, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    from tools.emulator.show import show
    from tools.results import write_text

    show(console(), done, whole=args.all, summary_only=args.summary)
    if args.html:
        from tools.emulator.page import page

        write_text(args.html, page(done, whole=args.all, summary_only=args.summary))
    if args.json:
        from tools.emulator.run import as_data

        write_text(args.json, json.dumps([as_data(run) for run in done], indent=1, allow_nan=False) + "\n")
    return 0 if all(run.ok for run in done) else 1


if __name__ == "__main__":
    sys.exit(main())
