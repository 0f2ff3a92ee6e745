"""The host's time for one call of each CUDA stage, beside PyTorch's own attention, at a shape too small to hide it.

    python -m tools.overhead                 measure; the data goes to docs/results/overhead/
    python -m tools.overhead --first-call    the first call of a process, which compiles; into the same file
    python -m tools.overhead --without-gpu   only what comes before the driver: no GPU, no launch, nothing written

Batch 1, one head, 64 queries and keys: what is timed is how soon a call returns, and no wait for the GPU. A sample is
the mean of 200 calls one after the other, fewer than the GPU's queue holds; stages and peers take turns.

First calls are timed in processes of their own, from the call to its result on the GPU, CuPy's import included: once
with nothing compiled before, once more with what that left on disk.

Exit codes: 0 all is measured; 1 no GPU, or a first call failed; 2 wrong arguments; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table

from stages import STAGES, Stage, get
from stages.common import contract, cuda, tiles
from stages.common.where import Where, where
from tools import results
from tools.bench.devices import random_inputs
from tools.bench.measure import in_turns
from tools.bench.shapes import Shape

SHAPE = Shape(batch=1, seqlen_q=64, seqlen_k=64, nheads=1, nheads_k=1, headdim=64, causal=False)
CALLS = 200  # a sample; a GPU's queue holds about a thousand launches
SAMPLES = 50
FIRST_SHAPE = Shape(batch=1, seqlen_q=64, seqlen_k=64, nheads=1, nheads_k=1, headdim=128, causal=True)
PEERS = ("torch_fa2", "torch_cudnn", "torch_efficient")
SDPA = "torch_sdpa"  # scaled_dot_product_attention as it is, without a choice of backend around it
ROOT = Path(__file__).resolve().parent.parent
RESULTS_DIR = results.RESULTS_DIR / "overhead"
FILL_S = 60.0  # what a specialisation may take to compile in the background


class _OnNoGpu(Where):
    """Launched as on a GPU, with tensors on the CPU."""

    device = "cpu"


@contextlib.contextmanager
def without_driver(launched: Callable = lambda *arguments: None) -> Iterator[None]:
    """Within, CUDA stages do on the host all that they do for a GPU, with CPU tensors, and call `launched` in place of
    the driver, with what that would get: kernel (here 0), grid, block, shared bytes, stream, address of the arguments.
    """

    def pretend(stage: Stage, dtype: str | None = None) -> Where:
        where(stage, dtype)  # takes the time that it takes
        return _OnNoGpu("gpu", "no GPU, and no launch")

    with contextlib.ExitStack() as stack:
        for target, name, value in (
            (contract, "where", pretend),
            (cuda, "_kernel", functools.cache(lambda *key: 0)),
            (cuda, "_driver_launch", lambda: launched),
            (cuda, "_current_stream", lambda index: 0),
            (cuda, "_compiling", {}),
            (cuda, "_compiled", {}),
            (tiles, "_device_name", lambda index: "no GPU"),
            (torch.cuda, "current_device", lambda: None),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        yield


def microseconds(
    calls: Mapping[str, Callable], samples: int, per_sample: int, wait: Callable[[], None]
) -> dict[str, list[float]]:
    """How long one call takes to return, sample by sample. wait: until the device has nothing left to do."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for names in in_turns(dict.fromkeys(calls, samples)):
        for name in names:
            call = calls[name]
            wait()
            began = time.perf_counter()
            for _ in range(per_sample):
                call()
            found[name].append(1e6 * (time.perf_counter() - began) / per_sample)
    wait()
    return found


def stage_calls(stages: Sequence[Stage], q, k, v) -> dict[str, Callable]:
    return {stage.name: functools.partial(stage.attention, q, k, v) for stage in stages}


def records(found: Mapping[str, Sequence[float]]) -> list[dict]:
    """One a stage or peer, its times in microseconds."""
    return [
        {
            "name": name,
            "us_median": round(statistics.median(samples), 3),
            "us_p10": round(results.percentile(samples, 10), 3),
            "us_p90": round(results.percentile(samples, 90), 3),
            "us_samples": [round(sample, 3) for sample in samples],
        }
        for name, samples in found.items()
    ]


def first_calls(stages: Sequence[Stage], seconds: Callable[[Stage, Path], float]) -> list[dict]:
    """Of each stage the seconds of its first call in two new processes, the second with what the first has compiled.

    seconds(stage, folder): makes such a process, whose compilers keep what they make in `folder`.
    """
    found = []
    for stage in stages:
        with tempfile.TemporaryDirectory(prefix="first-call-") as folder:
            cold, warm = (round(seconds(stage, Path(folder)), 3) for _ in range(2))
        found.append({"name": stage.name, "cold_s": cold, "warm_s": warm})
    return found


def in_a_new_process(stage: Stage, folder: Path) -> float:
    """Seconds of the stage's first call there. Raises RuntimeError with what the process said."""
    caches = {"CUPY_CACHE_DIR": str(folder / "cupy"), "CUDA_CACHE_PATH": str(folder / "cuda")}
    command = [sys.executable, "-m", "tools.overhead", "--only-first-call", stage.name]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | caches, capture_output=True, text=True)
    try:
        return float(done.stdout)
    except ValueError:
        raise RuntimeError(f"{stage.name}: {(done.stderr or done.stdout).strip()[-600:]}") from None


def one_first_call(stage: Stage) -> float:
    """What the process does: only the call is timed, with the tensors where the stage runs."""
    place = where(stage)
    q, k, v = random_inputs(FIRST_SHAPE, torch.float16, place.device)
    wait = torch.cuda.synchronize if place.kind == "gpu" else lambda: None
    attention = stage.attention
    wait()
    began = time.perf_counter()
    attention(q, k, v, causal=FIRST_SHAPE.causal)
    wait()
    return time.perf_counter() - began


def load(path) -> dict:
    """A file of this tool. Raises ResultsError naming the file and what is wrong."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        _ = [data["environment"][key] for key in ("device", "date")]
        for record in data["records"]:
            if not (isinstance(record["name"], str) and 0 < record["us_median"] < 1e6 and record["us_samples"]):
                raise ValueError(f"{record['name']}: us_median is {record['us_median']!r}")
        for record in data.get("first_calls", {"records": []})["records"]:
            if not (isinstance(record["name"], str) and all(0 < record[key] < 1e4 for key in ("cold_s", "warm_s"))):
                raise ValueError(f"{record['name']}: its first call took {record['cold_s']!r} and {record['warm_s']!r}")
    except OSError as problem:
        raise results.ResultsError(f"{path}: cannot be read: {problem.strerror}") from None
    except (KeyError, TypeError, ValueError) as problem:
        raise results.ResultsError(f"{path}: damaged: {type(problem).__name__}: {problem}") from None
    return data


def find(files: Sequence[dict], name: str, device: str = "", part: str = "") -> dict:
    """The newest record of a stage or peer; part: "first_calls", those. Raises NoData."""
    parts = [file.get(part, {"records": []}) if part else file for file in files]
    there = [
        (found["environment"]["date"], found["environment"]["device"], record)
        for found in parts
        for record in found["records"]
        if record["name"] == name and device.lower() in found["environment"]["device"].lower()
    ]
    devices = sorted({where_measured for _, where_measured, _ in there})
    if len(devices) != 1:
        raise results.NoData(
            f"{', '.join(devices)} have {name}; say which, by device=" if devices else f"no overhead of {name}"
        )
    return max(there, key=lambda one: one[0])[2]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.overhead", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--stages", type=_stages, default=None, metavar="S,...", help="CUDA stages (default: all)")
    p.add_argument("--samples", type=int, default=SAMPLES, help=f"default: {SAMPLES}")
    p.add_argument("--first-call", action="store_true", help="time the first call of a process instead")
    p.add_argument("--only-first-call", metavar="S", help=argparse.SUPPRESS)
    p.add_argument("--without-gpu", action="store_true", help="time the host's part alone, up to the driver")
    p.add_argument("--out", type=Path, metavar="FILE", help="default: docs/results/overhead/<device>.json")
    return p


def _stages(text: str) -> list[Stage]:
    try:
        chosen = [get(name) for name in text.split(",") if name.strip()]
    except KeyError as unknown:
        raise argparse.ArgumentTypeError(str(unknown)) from None
    for stage in chosen:
        if stage.capability.backend != "cuda":
            raise argparse.ArgumentTypeError(f"{stage.name} is no CUDA stage")
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    if args.samples < 1:
        p.error(f"argument --samples: is {args.samples}; accepted: 1 or more")
    if args.out is not None and (args.without_gpu or args.out.is_dir()):
        p.error("argument --out: accepted: a file to write, and not with --without-gpu")
    if args.first_call and args.without_gpu:
        p.error("argument --first-call: not with --without-gpu")
    if args.only_first_call:
        print(one_first_call(get(args.only_first_call)))
        return 0
    stages = args.stages or [stage for stage in STAGES if stage.capability.backend == "cuda"]
    try:
        return (_without_gpu if args.without_gpu else _on_gpu)(stages, args)
    except KeyboardInterrupt:
        print("stopped; nothing is written", file=sys.stderr)
        return 130


def _without_gpu(stages: Sequence[Stage], args) -> int:
    calls = stage_calls(stages, *random_inputs(SHAPE, torch.float16, "cpu"))
    with without_driver():
        for call in calls.values():
            for _ in range(2 * cuda.AFTER_CALLS):  # until "background" has what it waits for
                call()
        time.sleep(0.1)
        show(records(microseconds(calls, args.samples, CALLS, lambda: None)), "host, up to the driver")
    return 0


def _on_gpu(stages: Sequence[Stage], args) -> int:
    from tools.machine import environment

    elsewhere = [stage for stage in stages if where(stage).kind != "gpu"]
    if elsewhere:
        print(f"needs a CUDA GPU; here: {where(elsewhere[0]).reason}. --without-gpu needs none.", file=sys.stderr)
        return 1
    here = environment()
    out = args.out or RESULTS_DIR / f"{results.slug(here['device'])}.json"
    document = load(out) if out.exists() else {"environment": here, "records": []}
    if args.first_call:
        try:
            made = first_calls(stages, in_a_new_process)
        except RuntimeError as problem:
            print(problem, file=sys.stderr)
            return 1
        show_first_calls(made, here["device"])
        document["first_calls"] = {"environment": here, "shape": str(FIRST_SHAPE), "records": made}
    else:
        made = _measured(stages, args.samples)
        show(made, here["device"])
        document |= {"environment": here, "shape": str(SHAPE), "records": made}
    out.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(out, written(document))
    print(f"Written: {out}")
    return 0


def written(document: dict) -> str:
    """As the file has it, a record a line."""

    def part(of: dict) -> str:
        lines = ",\n".join(json.dumps(record, allow_nan=False) for record in of["records"])
        head = json.dumps(of["environment"], indent=1, allow_nan=False)
        return f'"environment": {head},\n"shape": {json.dumps(of.get("shape", ""))},\n"records": [\n{lines}\n]'

    first = f',\n"first_calls": {{{part(document["first_calls"])}}}' if "first_calls" in document else ""
    return f"{{{part(document)}{first}}}\n"


def _measured(stages: Sequence[Stage], samples: int) -> list[dict]:
    """The records of all stages and peers."""
    from tools.bench import peers

    q, k, v = random_inputs(SHAPE, torch.bfloat16, "cuda")
    calls = stage_calls(stages, q, k, v)
    calls |= {name: peers.build(name, SHAPE, q, k, v) for name in PEERS}
    calls[SDPA] = functools.partial(_sdpa, *(t.transpose(1, 2) for t in (q, k, v)))
    for name, call in list(calls.items()):
        try:
            for _ in range(2 * cuda.AFTER_CALLS):
                call()
        except RuntimeError as problem:  # a backend that this GPU or this PyTorch has not
            if name in PEERS:
                print(f"{name}: not measured: {str(problem).splitlines()[0]}", file=sys.stderr)
                del calls[name]
                continue
            raise
    until = time.monotonic() + FILL_S
    while not all(compiling.done() for compiling in cuda._compiling.values()) and time.monotonic() < until:
        time.sleep(0.1)
    return records(microseconds(calls, samples, CALLS, torch.cuda.synchronize))


def _sdpa(Q, K, V):
    """As most callers have it: PyTorch picks the backend."""
    return torch.nn.functional.scaled_dot_product_attention(Q, K, V)


def show(made: Sequence[dict], place: str) -> None:
    table = Table(title=f"µs a call, {SHAPE}: {place}")
    table.add_column("")
    for heading in ("median", "10 %", "90 %"):
        table.add_column(heading, justify="right")
    for record in made:
        table.add_row(record["name"], *(f"{record[key]:.1f}" for key in ("us_median", "us_p10", "us_p90")))
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table)


def show_first_calls(made: Sequence[dict], place: str) -> None:
    table = Table(title=f"seconds of the first call, {FIRST_SHAPE}: {place}")
    table.add_column("")
    for heading in ("nothing compiled before", "compiled before, on disk"):
        table.add_column(heading, justify="right")
    for record in made:
        table.add_row(record["name"], *(f"{record[key]:.2f}" for key in ("cold_s", "warm_s")))
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table)


if __name__ == "__main__":
    sys.exit(main())
