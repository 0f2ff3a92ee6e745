"""Compare the emulator's counters with a GPU's, read by Nsight Compute, for the launches of tools/emulator/cases.py.

    python -m tools.emulator.compare --out docs/results/emulator    on a GPU: launch, count, compare, write DEVICE.json
    python -m tools.emulator.compare --check                        anywhere: count again in the emulator, and compare
                                                                    with what the committed files have of the hardware

Rules and file format: tools/emulator/agreement.py.

Exit codes: 0 all agrees; 1 something does not, or could not be measured; 2 wrong arguments; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.emulator import agreement
from tools.emulator.cases import CASES, Case, described, emulated, find
from tools.profile import parse_launches
from tools.results import ROOT, ResultsError, slug, write_text

REQUIRED = tuple(name for name, counter in agreement.COUNTERS.items() if counter.required)
# Not every GPU and ncu has these, so they are collected apart: of the cases that have the instruction at all.
OPTIONAL = {
    "ldmatrix": ("ldmatrix_wavefronts", "ldmatrix_conflicts"),
    "cp_async": ("cp_async_wavefronts", "cp_async_conflicts"),
}


class MeasureError(Exception):
    """ncu gave no counters that can be used. The message says what it said."""


def launch_all(manifest: Path, numbers: Sequence[int], runs: int) -> int:
    """What the profiled process does with the cases of those numbers in CASES: each is launched once to compile, then
    `runs` times to be counted.

    `manifest` gets a line of JSON for every case that is through. The first that fails ends the process: what it has
    launched can no longer be told apart, and a CUDA error is there to stay.
    """
    import torch

    with open(manifest, "w", encoding="utf-8") as file:
        for number in numbers:
            line = {"case": CASES[number].name}
            try:
                launch = CASES[number].prepare("cuda")
                launch()
                torch.cuda.synchronize()
                torch.cuda.profiler.start()
                for _ in range(runs):
                    launch()
                torch.cuda.synchronize()
                torch.cuda.profiler.stop()
            except Exception as problem:
                line["error"] = f"{type(problem).__name__}: {problem}"
            print(json.dumps(line), file=file, flush=True)
            if "error" in line:
                return 1
    return 0


def profiled(cases: Sequence[Case], counters: Sequence[str], runs: int, limit_s: float) -> tuple[str, list[dict], str]:
    """Launch the cases in one process under ncu: what ncu printed, the lines of the manifest, what went wrong ("":
    nothing)."""
    kernels = "|".join(sorted({case.kernel for case in cases}))
    metrics = ",".join(agreement.COUNTERS[name].metric for name in counters)
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "manifest"
        command = ["ncu", "--csv", "--print-units", "base", "--clock-control", "none", "--metrics", metrics]
        command += ["--profile-from-start", "off", "--kernel-name", f"regex:{kernels}"]
        command += [sys.executable, "-m", "tools.emulator.compare", "--runs", str(runs), "--launch", str(manifest)]
        command += ["--cases", *(str(CASES.index(case)) for case in cases)]
        output, problem = _run(command, limit_s)
        lines = manifest.read_text(encoding="utf-8").splitlines() if manifest.exists() else []
    return output, [json.loads(line) for line in lines if line.endswith("}")], problem


def _run(command: Sequence[str], limit_s: float) -> tuple[str, str]:
    """What a command printed, and what went wrong ("": nothing). All of its processes are gone when this returns."""
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_EMULATE"}
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=max(limit_s, 1))
    except BaseException as stopped:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # ncu, and what it profiles
        process.communicate()
        if isinstance(stopped, subprocess.TimeoutExpired):
            return "", f"not done within {limit_s:.0f} s"
        raise
    if process.returncode:
        said = [line for line in output.splitlines() if line.startswith("==ERROR==")]
        return output, f"exit code {process.returncode}: {' '.join(said) or (errors.strip() or output.strip())[-600:]}"
    return output, ""


def matched(output: str, lines: Sequence[dict], counters: Sequence[str], runs: int) -> dict[str, dict[str, list[int]]]:
    """The counters of each case that is through, run by run: {case: {counter: [numbers]}}.

    Launches are in the manifest's order. Raises MeasureError where ncu has another kernel than that, or too few.
    """
    through = [line["case"] for line in lines if "error" not in line]
    if not through:
        return {}
    metrics = {name: agreement.COUNTERS[name].metric for name in counters}
    try:
        launches = parse_launches(output, metrics)
    except ValueError as problem:
        raise MeasureError(str(problem)) from None
    found = {}
    for i, name in enumerate(through):
        mine = launches[i * runs : (i + 1) * runs]
        kernel = find(name).kernel
        if len(mine) != runs or not all(kernel in launched for launched, _ in mine):
            got = ", ".join(launched for launched, _ in mine) or "nothing"
            raise MeasureError(f"{name}: expected {runs} launches of {kernel}; ncu has {got}")
        lacking = [metrics[c] for c in counters if any(c not in values for _, values in mine)]
        if lacking:
            raise MeasureError(f"{name}: ncu gave no value for {', '.join(lacking)}")
        found[name] = {counter: [_whole(values[counter]) for _, values in mine] for counter in counters}
    return found


def _whole(value: float) -> int:
    if value != int(value):
        raise MeasureError(f"a count is {value!r}; accepted: a whole number")
    return int(value)


def measure(
    cases: Sequence[Case], counters: Sequence[str], runs: int, deadline: float, run: Callable = profiled
) -> tuple[dict[str, dict[str, list[int]]], dict[str, str]]:
    """The hardware's counters of every case, and why there are none of the others. deadline: of time.monotonic.

    A case that fails is left out, and those after it run in a new process.
    """
    found: dict[str, dict[str, list[int]]] = {}
    failed: dict[str, str] = {}
    left, fruitless = list(cases), 0
    while left and fruitless < 2 and time.monotonic() < deadline:
        output, lines, problem = run(left, counters, runs, deadline - time.monotonic())
        try:
            new = matched(output, lines, counters, runs)
        except MeasureError as unusable:
            new, problem = {}, f"{unusable} {problem}".strip()
        found |= new
        left = [case for case in left if case.name not in new]
        errors = {line["case"]: line["error"] for line in lines if "error" in line}
        fruitless = 0 if new or errors else fruitless + 1  # twice, and it is ncu that does not work
        if left:
            first = left.pop(0)
            failed[first.name] = errors.get(first.name) or problem or "ncu said nothing of it"
    why = next(reversed(failed.values())) if fruitless else "no time was left"
    return found, failed | {case.name: why for case in left}


def ncu_version() -> str:
    """ "2025.3.1.0", from the last line of `ncu --version`."""
    done = subprocess.run(["ncu", "--version"], capture_output=True, text=True, check=False)
    words = done.stdout.split()
    return words[words.index("Version") + 1] if "Version" in words[:-1] else "unknown"


def compare(cases: Sequence[Case], runs: int, limit_s: float, out: Path | None) -> int:
    """Measure, count in the emulator, judge; what there is is written after every step."""
    from tools.emulator import missing
    from tools.machine import environment

    deadline = time.monotonic() + limit_s
    document = agreement.empty(environment() | {"ncu": ncu_version()}, runs)
    problems: dict[str, str] = {}
    counted: dict[str, dict[str, int]] = {}
    hardware: dict[str, dict[str, list[int]]] = {}
    path = out / f"{slug(document['environment']['device'])}.json" if out else None

    def save() -> None:
        document["records"] = [
            described(case) | {"hardware": hardware[case.name], "emulator": counted[case.name]}
            for case in cases
            if case.name in hardware and case.name in counted
        ]
        if path and document["records"]:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, agreement.text(document))

    def count_all() -> None:
        for case in cases:
            try:
                counted[case.name] = emulated(case)
            except Exception as problem:  # a finding, a kernel that does not compile: this case's, not the run's
                problems[case.name] = f"in the emulator: {type(problem).__name__}: {problem}"

    lacking = missing()
    if lacking:
        print(lacking, file=sys.stderr)
        return 1
    with ThreadPoolExecutor(1) as pool:
        counting = pool.submit(count_all)  # meanwhile: both wait for other processes
        print(f"{len(cases)} cases under ncu, and in the emulator ...", file=sys.stderr, flush=True)
        hardware, failed = measure(cases, REQUIRED, runs, deadline)
        problems |= failed
        counting.result()
    save()
    for instruction, counters in OPTIONAL.items():
        having = [r for r in document["records"] if r["emulator"][instruction]]
        print(f"{', '.join(counters)} of {len(having)} cases ...", file=sys.stderr, flush=True)
        found, failed = measure([find(r["case"]) for r in having], counters, runs, deadline)
        for name, why in list(failed.items())[:1]:  # the counter is there for all, or for none
            print(f"left out: {name}: {why}", file=sys.stderr)
        if not failed:
            for name, values in found.items():
                hardware[name] |= values
            save()
    show(document)
    status = 0
    for record in document["records"]:
        for line in agreement.disagreements(record):
            print(f"{record['case']}: {line}", file=sys.stderr)
            status = 1
    for name, why in problems.items():
        print(f"{name}: not compared: {why}", file=sys.stderr)
        status = 1
    if path and document["records"]:
        print(f"written to {path}", file=sys.stderr)
    return status


def show(document: dict) -> None:
    """A line a case: the counters in which the hardware is not the emulator in every run."""
    for record in document["records"]:
        cells = {name: agreement.cell(record, name) for name in record["hardware"]}
        other = [f"{name} {text}" for name, text in cells.items() if "(" in text]
        verdict = f"of which other on the hardware: {'; '.join(other)}" if other else "equal"
        print(f"{record['case']}: {len(cells)} counters, {verdict}")


def check(paths: Sequence[Path]) -> int:
    """Count again in the emulator what the files record, and name every difference."""
    from tools.emulator import missing

    if not paths:
        print(f"no file in {agreement.FOLDER.relative_to(ROOT)}: on a GPU, --out writes one", file=sys.stderr)
        return 1
    lacking = missing()
    if lacking:
        print(lacking, file=sys.stderr)
        return 1
    bad = 0
    for path in paths:
        try:
            document = agreement.load(path)
        except ResultsError as damaged:
            print(damaged, file=sys.stderr)
            bad += 1
            continue
        for problem in problems(document):
            print(f"{path.name}: {problem}", file=sys.stderr)
            bad += 1
        print(f"{path.name}: {len(document['records'])} launches on {document['environment']['device']} compared")
    return 1 if bad else 0


def problems(document: dict, cases: Sequence[Case] = CASES) -> list[str]:
    """What is wrong with a document: cases without a record, and records that the emulator does not agree with now."""
    records = {record["case"]: record for record in document["records"]}
    found = [f"{case.name}: no record" for case in cases if case.name not in records]
    found += [f"{name}: no such case" for name in records if name not in {case.name for case in CASES}]
    return found + [line for case in cases if case.name in records for line in problems_of(records[case.name], case)]


def problems_of(record: dict, case: Case) -> list[str]:
    """What the emulator counts otherwise than when the record was made, and where it disagrees with the hardware."""
    now = emulated(case)
    if json.loads(json.dumps(described(case))) != {key: record[key] for key in described(case)}:
        return [f"{case.name}: recorded of another launch"]
    found = [
        f"{case.name}: {name}: {now[name]:,} in the emulator, {record['emulator'][name]:,} when it was recorded"
        for name in agreement.COUNTERS
        if now[name] != record["emulator"][name]
    ]
    return found + [f"{case.name}: {line}" for line in agreement.disagreements(record, now)]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.emulator.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--check", nargs="*", type=Path, metavar="FILE", help="files (default: docs/results/emulator/)")
    p.add_argument("--out", type=Path, metavar="FOLDER", help="where DEVICE.json goes; without it, only print")
    p.add_argument("--only", default="", metavar="TEXT", help="the cases whose name has TEXT in it")
    p.add_argument("--runs", type=int, default=5, help="how often each case is measured (default: 5)")
    p.add_argument("--limit-s", type=float, default=600, help="no new measurement after so long (default: 600)")
    p.add_argument("--launch", type=Path, help=argparse.SUPPRESS)
    p.add_argument("--cases", nargs="*", type=int, default=[], help=argparse.SUPPRESS)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    if args.runs < 1:
        p.error(f"argument --runs: is {args.runs}; accepted: 1 or more")
    if not args.limit_s > 0:
        p.error(f"argument --limit-s: is {args.limit_s}; accepted: seconds above 0")
    cases = [case for case in CASES if args.only in case.name]
    if not cases:
        p.error(
            f"argument --only: no case has {args.only!r} in its name; there are: {'; '.join(c.name for c in CASES)}"
        )
    try:
        if args.launch:
            return launch_all(args.launch, args.cases, args.runs)
        if args.check is not None:
            return check(args.check or agreement.recorded())
        from stages.common.where import gpu_arch

        arch = gpu_arch()
        if arch is None or arch < 80:
            have = "there is none" if arch is None else f"this one has {arch / 10}"
            print(f"needs a GPU of compute capability 8.0 or newer, and {have}; --check needs none", file=sys.stderr)
            return 1
        if not shutil.which("ncu"):
            print("ncu (Nsight Compute) is not on the PATH; it comes with the CUDA toolkit", file=sys.stderr)
            return 1
        return compare(cases, args.runs, args.limit_s, args.out)
    except KeyboardInterrupt:
        print("stopped; what was measured before is written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
