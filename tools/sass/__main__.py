"""Compile the CUDA stages for GPUs that need not be there, and show what the compiler made of them.

    python -m tools.sass s20                 registers, shared memory, occupancy, instructions
    python -m tools.sass s20 s21             two stages side by side, and what changed
    python -m tools.sass s20 my/kernel.cu    a stage against a changed copy of its kernel
    python -m tools.sass s20 --dump s20.sass the machine code itself, with the source lines between
    python -m tools.sass --record            measure every stage and write docs/results/sass/
    python -m tools.sass --check             say which of those files are older than their kernel

Counts of instructions are static: each counts once, however often it runs. They need nvdisasm, which comes with the
package nvidia-cuda-nvdisasm, with Triton, and with the CUDA toolkit; everything else works without.

Exit codes: 0 all is well; 1 a kernel does not compile, a spill or a "Potential Performance Loss" that its stage does
not declare, a stale file (--check); 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stages import STAGES, get
from stages.common.record import Stage
from stages.common.where import installed
from tools.edited import Edited, edited

ARCHES = ("80", "89", "90a")
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "bfloat16": "bfloat16", "float16": "float16"}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.sass", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "stages", nargs="*", help="CUDA stages (default: all), or a stage and a changed copy of its kernel.cu"
    )
    p.add_argument("--arch", choices=("80", "89", "90", "90a", "all"), help="default: all; instructions: 90a")
    p.add_argument("--dtype", choices=(*DTYPES, "all"), default="bf16", help="default: bf16")
    p.add_argument("--headdim", type=int, help="default: all; when two are compared, the largest")
    p.add_argument("--causal", choices=("yes", "no", "all"), help="default: all; when two are compared, no")
    p.add_argument("--dump", type=Path, metavar="FILE", help="write the machine code (SASS) of one instantiation")
    p.add_argument("--record", action="store_true", help="measure every instantiation and write docs/results/sass/")
    p.add_argument("--check", action="store_true", help="compile nothing, and say which of those files are stale")
    p.add_argument("--jobs", type=int, default=2, help="compilers at once (default: 2)")
    return p


def cuda_stages() -> list[Stage]:
    return [stage for stage in STAGES if stage.capability.backend == "cuda"]


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    if args.jobs < 1:
        p.error(f"argument --jobs: is {args.jobs}; accepted: 1 or more")
    stages, labels = _stages(p, args.stages)
    if args.record or args.check:
        if any(isinstance(stage, Edited) for stage in stages):
            p.error("--record and --check take stages, not files")
        if args.check:
            return check(stages)
    for module, package in (("cupy_backends", "cupy-cuda13x"), ("torch", "torch")):
        if not installed(module):
            print(f"needs {package}, which is not installed; `make doctor` says how to get it", file=sys.stderr)
            return 1
    from tools.nvrtc import CompileError
    from tools.sass.mix import DisassemblerError

    try:
        if args.record:
            return record(stages, args.jobs)
        if args.dump:
            return dump(p, stages, args)
        return show(p, stages, labels, args)
    except (CompileError, DisassemblerError) as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing is lost", file=sys.stderr)
        return 130


def _stages(p: argparse.ArgumentParser, names: Sequence[str]) -> tuple[list[Stage], list[str]]:
    stages, labels = [], []
    for name in names:
        if name.endswith(".cu"):
            if not stages:
                p.error(f"argument stages: {name} is a kernel; accepted: after the stage that it was copied from")
            if not Path(name).is_file():
                p.error(f"argument stages: {name} is no file")
            stages.append(edited(stages[0], Path(name)))
            labels.append(name)
            continue
        try:
            stage = get(name)
        except KeyError as unknown:
            p.error(f"argument stages: {unknown}")
        if stage.capability.backend != "cuda":
            takes = ", ".join(one.short for one in cuda_stages())
            p.error(f"argument stages: {stage.name} is no CUDA stage; accepted: {takes}")
        stages.append(stage)
        labels.append(stage.short)
    every = cuda_stages()
    return (stages, labels) if stages else (every, [stage.short for stage in every])


def _chosen(args, **defaults) -> dict:
    """The instantiations asked for; None: all."""
    arch = "90a" if args.arch == "90" else args.arch
    causal = {"yes": True, "no": False, "all": "all", None: None}[args.causal]
    dtype = DTYPES.get(args.dtype, args.dtype)
    asked = {"arch": arch, "dtype": dtype, "headdim": args.headdim, "causal": causal}
    asked = {key: defaults.get(key) if value is None else value for key, value in asked.items()}
    return {key: None if value == "all" else value for key, value in asked.items()}


def _disassembler() -> Path | None:
    from tools.sass import mix

    path = mix.find_disassembler()
    if path is None:
        print(f"no nvdisasm: instructions are not counted; `pip install {mix.PACKAGE}` brings it", file=sys.stderr)
    return path


def _measured(stages: Sequence[Stage], wanted: Sequence[Sequence], jobs: int) -> list[list[dict]]:
    """The records of each stage's instantiations. Shows progress where a person looks on."""
    from rich.console import Console
    from rich.progress import track

    from tools.sass.records import measure_all

    every = [one for group in wanted for one in group]
    console = Console(stderr=True)
    made = iter(
        list(
            track(
                measure_all(every, jobs), "compiling", len(every), console=console, disable=not console.is_terminal,
                transient=True,
            )
        )
    )  # fmt: skip
    return [[next(made) for _ in group] for group in wanted]


def show(p: argparse.ArgumentParser, stages: Sequence[Stage], labels: Sequence[str], args) -> int:
    from rich.console import Console

    from tools.sass import show as tables
    from tools.sass.records import instantiations

    two = len(args.stages) == 2
    chosen = _chosen(args)
    if two:
        common = set(stages[0].capability.headdims) & set(stages[1].capability.headdims)
        chosen = _chosen(args, arch="90a", headdim=max(common, default=None), causal=False)
    disassembler = _disassembler()
    wanted = [instantiations(stage, disassembler, **chosen) for stage in stages]
    for stage, group in zip(stages, wanted, strict=True):
        if not group:
            p.error(f"{stage.name} has no such instantiation; accepted: --headdim {stage.capability.headdims}")
    groups = _measured(stages, wanted, args.jobs)
    console = Console(width=None if sys.stdout.isatty() else 200)
    if two:
        for pair in zip(*groups, strict=True):
            console.print(tables.comparison(labels, pair))
    else:
        for stage, records in zip(stages, groups, strict=True):
            console.print(tables.resources(stage.name, records))
            counted = [r for r in records if r["static"] and (args.arch or r["arch"] == "90a")]
            for arch in dict.fromkeys(r["arch"] for r in counted):
                console.print(tables.instructions(stage.name, [r for r in counted if r["arch"] == arch]))
    return _judge(stages, groups)


def _judge(stages: Sequence[Stage], groups: Sequence[Sequence[dict]]) -> int:
    """1 if a stage has a fault that it does not declare, which is then named."""
    from tools.sass.records import faults
    from tools.sass.show import named

    bad = 0
    for stage, records in zip(stages, groups, strict=True):
        for r in records:
            for fault in faults(r):
                if fault not in stage.compiler_faults:
                    print(f"{stage.name}, {named(r)}: {fault}, which the stage does not declare", file=sys.stderr)
                    bad = 1
    return bad


def record(stages: Sequence[Stage], jobs: int) -> int:
    from tools.results import write_text
    from tools.sass.records import document, instantiations, path_of

    disassembler = _disassembler()
    if disassembler is None:
        print("nothing is written: the files hold the instructions too", file=sys.stderr)
        return 1
    bad = 0
    for stage in stages:
        records = _measured([stage], [instantiations(stage, disassembler)], jobs)[0]
        text = document(stage, records, disassembler)
        path = path_of(stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        same = path.exists() and path.read_text(encoding="utf-8") == text
        if not same:
            write_text(path, text)
        print(f"{stage.name}: {len(records)} instantiations, {'unchanged' if same else f'written to {path.name}'}")
        bad |= _judge([stage], [records])
    return bad


def check(stages: Sequence[Stage]) -> int:
    from tools.results import ResultsError
    from tools.sass.records import stale

    problems = []
    for stage in stages:
        try:
            problems += [problem for problem in [stale(stage)] if problem]
        except ResultsError as damaged:
            problems.append(str(damaged))
    for problem in problems:
        print(f"{problem}; `make sass` records it", file=sys.stderr)
    return 1 if problems else 0


def dump(p: argparse.ArgumentParser, stages: Sequence[Stage], args) -> int:
    from tools import nvrtc
    from tools.results import write_text
    from tools.sass import mix
    from tools.sass.records import instantiations

    if len(args.stages) != 1:
        p.error("argument --dump: takes one stage")
    if not args.dump.parent.is_dir():
        p.error(f"argument --dump: {args.dump.parent} is no folder")
    disassembler = _disassembler()
    if disassembler is None:
        return 1
    stage = stages[0]
    chosen = _chosen(args, arch="90a", headdim=stage.capability.max_headdim, causal=False)
    wanted = instantiations(stage, disassembler, **chosen)
    if len(wanted) != 1:
        p.error(f"argument --dump: {len(wanted)} instantiations answer; --arch, --dtype, --headdim, --causal choose")
    write_text(args.dump, mix.disassemble(nvrtc.run(wanted[0].job).cubin, disassembler, lines=True))
    print(f"{wanted[0].job} -> {args.dump}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
