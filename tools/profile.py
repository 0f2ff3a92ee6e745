"""The few hardware counters that a stage's idea is about, read by Nsight Compute and kept as data.

    python -m tools.profile s11 s12 s20 --out docs/results/profile/h200.json

Each stage is run in a process of its own under `ncu`, which has to be on the PATH and allowed to read counters.
Clocks are left as they are, so the time is only there to divide by: tools.bench is what measures speed.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import subprocess
import sys
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

    stage = get(args.run)
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (args.batch, args.seqlen, args.nheads, args.headdim)
    q, k, v = (torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    stage.attention(q, k, v, causal=args.causal)  # compiles, and tunes what tunes itself
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    stage.attention(q, k, v, causal=args.causal)
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()
    return 0


def parse_ncu(text: str) -> dict[str, float]:
    """The counters of the last kernel in ncu's --csv output, in base units. Raises ValueError when one is missing."""
    start = text.find('"ID"')
    if start < 0:
        raise ValueError(f"ncu printed no counters: {text.strip()[-300:] or 'nothing at all'}")
    values: dict[str, float] = {}
    metric_names = {metric: name for name, (metric, _, _) in COUNTERS.items()}
    for row in csv.DictReader(io.StringIO(text[start:])):
        name = metric_names.get(row["Metric Name"])
        if name:
            factor = _NUMBER_OF_UNIT.get(row["Metric Unit"], 1)
            values[name] = float(row["Metric Value"].replace(",", "")) * factor
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


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.profile", description=__doc__.split("\n\n")[0])
    parser.add_argument("stages", nargs="*", help="stages that run on a GPU: s12, s20 ...")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--nheads", type=int, default=16)
    parser.add_argument("--seqlen", type=int, default=4096)
    parser.add_argument("--headdim", type=int, default=128)
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--out", type=Path, help="write the records here as JSON; without it, only print them")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.run:
        return run_once(args)
    if not args.stages:
        parser.error("stages is empty; accepted: one or more that run on a GPU, such as s12 s20")

    from stages import get
    from stages.common.where import where

    try:
        stages = [get(name) for name in args.stages]
    except KeyError as unknown:
        parser.error(str(unknown))
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
