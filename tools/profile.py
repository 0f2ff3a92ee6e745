"""The few hardware counters that a stage's idea is about, read by Nsight Compute and kept as data.

    python -m tools.profile s11 s12 s20 --out docs/results/profile/h200.json

Each stage is run in a process of its own under `ncu`, which has to be on the PATH and allowed to read counters.
Clocks are left as they are, so the time is only there to divide by: tools.bench is what measures speed.
A CUDA stage is profiled a second time, at a shape that is small enough for the emulator, and what the emulator counts
there is printed beside it.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Name in the file: (ncu's metric, unit, what it says).
COUNTERS = {
    "time": ("gpu__time_duration.sum", "ns", "duration of the kernel under the profiler"),
    "grid": ("launch__grid_size", "blocks", "blocks (programs) launched"),
    "registers": ("launch__registers_per_thread", "registers", "registers a thread"),
    "warps_active": (
        "sm__warps_active.avg.pct_of_peak_sustained_active",
        "%",
        "warps resident on a busy multiprocessor, of the most that it holds",
    ),
    "sms_busy": (
        "sm__cycles_active.avg.pct_of_peak_sustained_elapsed",
        "%",
        "multiprocessors with a block to run, averaged over time",
    ),
    "dram_read": ("dram__bytes_read.sum", "bytes", "read from device memory"),
    "dram_write": ("dram__bytes_write.sum", "bytes", "written to device memory"),
    "l2_read": ("lts__t_sectors_op_read.sum", "sectors of 32 bytes", "read requests at the L2 cache"),
    "l2_write": ("lts__t_sectors_op_write.sum", "sectors of 32 bytes", "write requests at the L2 cache"),
    "shared_load_conflicts": (
        "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum",
        "wavefronts",
        "extra passes because lanes of a load wanted the same bank (ldmatrix included)",
    ),
    "shared_store_conflicts": (
        "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_st.sum",
        "wavefronts",
        "the same for stores",
    ),
    "shared_load_wavefronts": (
        "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_ld.sum",
        "wavefronts",
        "passes over shared memory for loads",
    ),
    "shared_store_wavefronts": (
        "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_st.sum",
        "wavefronts",
        "passes over shared memory for stores",
    ),
    "global_load_sectors": (
        "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum",
        "sectors of 32 bytes",
        "asked for by loads, cp.async included",
    ),
    "global_store_sectors": (
        "l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum",
        "sectors of 32 bytes",
        "asked for by stores",
    ),
    "ldmatrix": ("smsp__inst_executed_op_ldsm.sum", "warp instructions", "ldmatrix"),
    "cp_async": ("smsp__inst_executed_op_ldgsts.sum", "warp instructions", "cp.async"),
    "instructions": ("smsp__inst_executed.sum", "warp instructions", "executed"),
    "tensor_busy": (
        "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
        "%",
        "cycles in which the tensor cores worked, of those in which the multiprocessor did",
    ),
}
_SECONDS = {"nsecond": 1, "usecond": 1e3, "msecond": 1e6, "second": 1e9, "ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}
_NUMBER_OF_UNIT = _SECONDS | {
    prefix + unit: factor
    for prefix, factor in (("", 1), ("K", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12))
    for unit in ("byte", "sector", "inst", "block", "B")
}


def run_once(args) -> int:
    """What the profiled process does: one call to compile, one to be counted. Random inputs, bfloat16."""
    import torch

    from stages import get
    from stages.common.cuda import specialise

    stage = get(args.run)
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (args.batch, args.seqlen, args.nheads, args.headdim)
    q, k, v = (torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    with specialise("now"):
        stage.attention(q, k, v, causal=args.causal)  # compiles, and tunes what tunes itself
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        stage.attention(q, k, v, causal=args.causal)
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
    return 0


def parse_launches(text: str, metrics: Mapping[str, str]) -> list[tuple[str, dict[str, float]]]:
    """ncu's --csv output: of every launch, in order, the kernel's name and the counters that are there, in base units.

    metrics: {name of a counter: ncu's name}. Raises ValueError when there is no launch.
    """
    start = text.find('"ID"')
    if start < 0:
        raise ValueError(f"ncu printed no counters: {text.strip()[-300:] or 'nothing at all'}")
    names = {metric: name for name, metric in metrics.items()}
    launches: dict[str, tuple[str, dict[str, float]]] = {}
    for row in csv.DictReader(io.StringIO(text[start:])):
        name = names.get(row["Metric Name"])
        if name:
            factor = _NUMBER_OF_UNIT.get(row["Metric Unit"], 1)
            _, values = launches.setdefault(row["ID"], (row["Kernel Name"], {}))
            values[name] = float(row["Metric Value"].replace(",", "")) * factor
    if not launches:
        raise ValueError(f"ncu gave no value for {', '.join(metrics.values())}")
    return list(launches.values())


def parse_ncu(text: str) -> dict[str, float]:
    """The counters of the last kernel in ncu's --csv output, in base units. Raises ValueError when one is missing."""
    _, values = parse_launches(text, {name: metric for name, (metric, _, _) in COUNTERS.items()})[-1]
    missing = [metric for name, (metric, _, _) in COUNTERS.items() if name not in values]
    if missing:
        raise ValueError(f"ncu gave no value for {', '.join(missing)}")
    return values


def profile(stage, args) -> dict:
    """One record: the stage, the shape, the counters."""
    shape = [f"--{name}={getattr(args, name)}" for name in ("batch", "nheads", "seqlen", "headdim")]
    metrics = ",".join(metric for metric, _, _ in COUNTERS.values())
    command = ["ncu", "--csv", "--clock-control", "none", "--metrics", metrics]
    command += ["--profile-from-start", "off", "--kernel-name", "regex:attention_kernel"]
    command += [sys.executable, "-m", "tools.profile", "--run", stage.name, *shape] + ["--causal"] * args.causal
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"ncu failed with {done.returncode}: {(done.stderr + done.stdout).strip()[-600:]}")
    return {
        "name": stage.name,
        "dtype": "bfloat16",
        "batch": args.batch,
        "nheads": args.nheads,
        "seqlen": args.seqlen,
        "headdim": args.headdim,
        "causal": args.causal,
        "counters": parse_ncu(done.stdout),
    }


def table(records: list[dict]):
    from rich.table import Table

    shown = Table(title="Hardware counters")
    shown.add_column("counter")
    for record in records:
        shown.add_column(record["name"].partition("_")[0], justify="right")
    for name, (_, unit, _) in COUNTERS.items():
        shown.add_row(f"{name} ({unit})", *(f"{r['counters'][name]:,.6g}" for r in records))
    return shown


SMALL = {"batch": 1, "nheads": 2, "seqlen": 256}  # for the emulator


def emulated_counters(stage, args) -> dict[str, int]:
    """What the emulator counts of the same launch, by the names of COUNTERS: of those that it knows."""
    from tools.emulator.cases import StageCase, emulated

    lengths = {"seqlen_q": args.seqlen, "seqlen_k": args.seqlen}
    heads = {"batch": args.batch, "nheads": args.nheads, "nheads_k": args.nheads}
    case = StageCase(stage.short, headdim=args.headdim, causal=args.causal, **lengths, **heads)
    return {name: value for name, value in emulated(case).items() if name in COUNTERS}


def table_beside(record: dict, emulator: dict[str, int]):
    """The profiler's counters and the emulator's, and by how much the profiler's are more."""
    from rich.table import Table

    shape = "batch {batch}, {nheads} heads, length {seqlen}, head dim {headdim}".format(**record)
    shown = Table(
        title=f"{record['name']}, {shape}{', causal' if record['causal'] else ''}",
        caption="Why the profiler may count more over shared memory: docs/emulator-against-hardware.md",
    )
    shown.add_column("counter")
    for column in ("profiler", "emulator", "difference"):
        shown.add_column(column, justify="right")
    for name, ours in emulator.items():
        theirs = int(record["counters"][name])
        more = theirs - ours
        shown.add_row(f"{name} ({COUNTERS[name][1]})", f"{theirs:,}", f"{ours:,}", f"{more:+,}" if more else "0")
    return shown


def show_beside_emulator(stage, args) -> int:
    """Profile the stage at a small shape and print the emulator's counters beside the profiler's; the exit code."""
    from rich.console import Console

    from tools.emulator import CompileError, KernelError, missing

    if missing():
        print(f"{stage.name}: not compared with the emulator: {missing()}", file=sys.stderr)
        return 0
    small = argparse.Namespace(**(vars(args) | SMALL))
    print(f"{stage.name}, small, and in the emulator ...", file=sys.stderr, flush=True)
    try:
        Console().print(table_beside(profile(stage, small), emulated_counters(stage, small)))
    except (ValueError, CompileError, KernelError) as failure:
        print(f"{stage.name}: {failure}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m tools.profile", description=__doc__.split("\n\n")[0])
    p.add_argument("stages", nargs="*", help="stages that run on a GPU: s12, s20 ...")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--nheads", type=int, default=16)
    p.add_argument("--seqlen", type=int, default=4096)
    p.add_argument("--headdim", type=int, default=128)
    p.add_argument("--causal", action="store_true")
    p.add_argument("--out", type=Path, help="write the records here as JSON; without it, only print them")
    p.add_argument("--no-emulator", action="store_true", help="CUDA stages: do not compare with the emulator")
    p.add_argument("--run", help=argparse.SUPPRESS)
    return p


def main(argv=None) -> int:
    p = parser()
    args = p.parse_args(argv)
    if args.run:
        return run_once(args)
    if not args.stages:
        p.error("stages is empty; accepted: one or more that run on a GPU, such as s12 s20")

    from stages import get
    from stages.common.where import where

    try:
        stages = [get(name) for name in args.stages]
    except KeyError as unknown:
        p.error(str(unknown))
    for stage in stages:
        if where(stage).kind != "gpu":
            print(f"{stage.name} does not run on a GPU here: {where(stage).reason}", file=sys.stderr)
            return 1
    if not shutil.which("ncu"):
        print("ncu (Nsight Compute) is not on the PATH; it comes with the CUDA toolkit", file=sys.stderr)
        return 1

    from rich.console import Console

    from tools.machine import environment
    from tools.results import write_text

    records = []
    for stage in stages:
        print(f"{stage.name} ...", file=sys.stderr, flush=True)
        try:
            records.append(profile(stage, args))
        except ValueError as failure:
            print(f"{stage.name}: {failure}", file=sys.stderr)
            return 1
        if args.out:
            document = {"environment": environment(), "profiles": records}
            write_text(args.out, json.dumps(document, indent=1) + "\n")
    Console().print(table(records))
    if args.no_emulator:
        return 0
    return max((show_beside_emulator(s, args) for s in stages if s.capability.backend == "cuda"), default=0)


if __name__ == "__main__":
    sys.exit(main())
