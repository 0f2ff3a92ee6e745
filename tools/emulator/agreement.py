"""What a GPU's profiler and the emulator counted for the same launches, and by which rule the two have to agree.

docs/results/emulator/DEVICE.json, written by tools.emulator.compare:

    {"environment": {...}, "runs": 5,
     "rules": {rule: what it says}, "counters": {counter: {"metric": ncu's name, "unit": ..., "rule": ...}},
     "records": [{"case": name, "group": ..., "kernel": ..., "launch": {...},
                  "hardware": {counter: [a number a run]}, "emulator": {counter: number}}, ...]}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools import profile
from tools.results import RESULTS_DIR, NoData, ResultsError

FOLDER = RESULTS_DIR / "emulator"

RULES = {
    "equal": "Every run on the hardware counts what the emulator counts.",
    "arbitration": (
        "Data that arrives from global memory is written to the same memory as shared memory lies in, and may take the "
        "turn of a load or store of shared memory, which the profiler counts as one more wavefront and one more bank "
        "conflict. How often depends on when the data arrives, so it differs from run to run; the emulator has no such "
        "times. In every run: not fewer than in the emulator; as many more conflicts as wavefronts, so that wavefronts "
        "less conflicts is exactly the emulator's; loads and stores together at most one more for each sector that is "
        "loaded, so none in a kernel that loads nothing."
    ),
    "recorded": "Kept, not compared.",
}


@dataclass(frozen=True)
class Counter:
    """metric: ncu's name. rule: of RULES. required: False, it may be missing, where a GPU or ncu does not have it."""

    metric: str
    unit: str
    rule: str
    required: bool = True


def _profiled(name: str, rule: str) -> Counter:
    metric, unit, _ = profile.COUNTERS[name]
    return Counter(metric, unit, rule)


# What the pair of counters has in common is one turn lost: see "arbitration".
ARBITRATED = (
    ("shared_load_wavefronts", "shared_load_conflicts"),
    ("shared_store_wavefronts", "shared_store_conflicts"),
)
COUNTERS = {
    **{name: _profiled(name, "arbitration") for pair in ARBITRATED for name in pair},
    **{
        name: _profiled(name, "equal")
        for name in ("global_load_sectors", "global_store_sectors", "ldmatrix", "cp_async")
    },
    # Counted an instruction at a time. What cp.async writes to shared memory is in none of the counters above.
    "ldmatrix_wavefronts": Counter(
        "smsp__sass_l1tex_data_pipe_lsu_wavefronts_mem_shared_op_ldsm.sum", "wavefronts", "equal", required=False
    ),
    "ldmatrix_conflicts": Counter(
        "smsp__sass_l1tex_data_bank_conflicts_pipe_lsu_mem_shared_op_ldsm.sum", "wavefronts", "equal", required=False
    ),
    "cp_async_wavefronts": Counter(
        "smsp__sass_l1tex_data_pipe_lsu_wavefronts_mem_shared_op_ldgsts.sum", "wavefronts", "recorded", required=False
    ),
    "cp_async_conflicts": Counter(
        "smsp__sass_l1tex_data_bank_conflicts_pipe_lsu_mem_shared_op_ldgsts.sum",
        "wavefronts",
        "recorded",
        required=False,
    ),
}


def disagreements(record: dict, emulator: dict[str, int] | None = None) -> list[str]:
    """In which counters a record breaks its rule; [] when in none.

    emulator: what is counted now, instead of what was when the record was made.
    """
    emulator = record["emulator"] if emulator is None else emulator
    hardware, found = record["hardware"], []
    for name, counter in COUNTERS.items():
        if counter.rule == "equal" and any(run != emulator[name] for run in hardware.get(name, ())):
            found.append(f"{name}: {_runs(hardware[name])} on the hardware, {emulator[name]:,} in the emulator")
    lost = [0] * len(hardware["shared_load_wavefronts"])
    for wavefronts, conflicts in ARBITRATED:
        for run, (w, c) in enumerate(zip(hardware[wavefronts], hardware[conflicts], strict=True)):
            more_w, more_c = w - emulator[wavefronts], c - emulator[conflicts]
            lost[run] += more_w
            if more_w != more_c or more_w < 0:
                found.append(
                    f"{wavefronts} and {conflicts}: {w:,} and {c:,} on the hardware in run {run + 1}, {more_w:+,} and "
                    f"{more_c:+,} of the emulator's; accepted: the same, 0 or more"
                )
    arriving = emulator["global_load_sectors"]
    if max(lost) > arriving:
        found.append(
            f"shared loads and stores: {max(lost):,} wavefronts more on the hardware than in the emulator, and only "
            f"{arriving:,} sectors are loaded"
        )
    return found


def _runs(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def cell(record: dict, counter: str) -> str:
    """The emulator's number, and in parentheses how far the hardware's runs are from it, if they are."""
    number = record["emulator"][counter]
    more = sorted({run - number for run in record["hardware"][counter]})
    if more == [0]:
        return f"{number:,}"
    return f"{number:,} ({more[0]:+,}{f' to {more[-1]:+,}' if len(more) > 1 else ''})"


def pairs(document: dict) -> Iterator[tuple[Counter, list[int], int]]:
    """Every compared counter of every record: (counter, the hardware's runs, the emulator's number)."""
    for record in document["records"]:
        for name, runs in record["hardware"].items():
            if COUNTERS[name].rule != "recorded":
                yield COUNTERS[name], runs, record["emulator"][name]


def empty(environment: dict, runs: int) -> dict:
    """A document without records."""
    return {
        "environment": environment,
        "runs": runs,
        "rules": RULES,
        "counters": {n: {"metric": c.metric, "unit": c.unit, "rule": c.rule} for n, c in COUNTERS.items()},
        "records": [],
    }


def text(document: dict) -> str:
    """The file's text, a record a line."""
    head = json.dumps({key: value for key, value in document.items() if key != "records"}, indent=1, allow_nan=False)
    lines = ",\n".join(json.dumps(record, allow_nan=False) for record in document["records"])
    return head[:-2] + f',\n "records": [\n{lines}\n]}}\n'


def recorded() -> list[Path]:
    """The files that there are."""
    return sorted(FOLDER.glob("*.json"))


def load(path: Path) -> dict:
    """Read and check one file. Raises ResultsError naming it."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        if not all(isinstance(document["environment"][key], str) for key in ("device", "date", "ncu")):
            raise ValueError("environment: device, date or ncu is no text")
        now = empty(document["environment"], document["runs"])
        if any(document[key] != now[key] for key in ("rules", "counters")):
            raise ValueError("rules or counters are not those of tools/emulator/agreement.py")
        if not document["records"]:
            raise ValueError("there are no records")
        for record in document["records"]:
            _check(record, document["runs"])
    except OSError as problem:
        raise ResultsError(f"{path}: cannot be read: {problem.strerror}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        raise ResultsError(f"{path}: damaged: {type(problem).__name__}: {problem}") from None
    return document


def _check(record: dict, runs: int) -> None:
    name, hardware, emulator = record["case"], record["hardware"], record["emulator"]
    if not isinstance(name, str) or record["group"] not in ("stages", "accesses"):
        raise ValueError(f"case {name!r}, group {record['group']!r}")
    if not set(COUNTERS) >= set(hardware) >= {n for n, c in COUNTERS.items() if c.required}:
        raise ValueError(f"{name}: hardware has {', '.join(hardware)}; accepted: {', '.join(COUNTERS)}")
    if set(emulator) != set(COUNTERS):
        raise ValueError(f"{name}: emulator has {', '.join(emulator)}; accepted: {', '.join(COUNTERS)}")
    numbers = [*emulator.values(), *(number for values in hardware.values() for number in values)]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"{name}: a count is no whole number from 0 up")
    if any(len(values) != runs for values in hardware.values()):
        raise ValueError(f"{name}: not every counter has {runs} runs")


def choose(documents: Sequence[dict], device: str = "") -> dict:
    """The newest document of the one device there is, or of the one that `device` is a part of. Raises NoData."""
    there = [d for d in documents if device.lower() in d["environment"]["device"].lower()]
    names = sorted({d["environment"]["device"] for d in there})
    if len(names) != 1:
        raise NoData(
            f"the emulator is compared with {len(names)} devices: {', '.join(names)}; say which, by device="
            if names
            else f"the emulator is compared with no device{f' {device!r}' if device else ''}"
        )
    return max(there, key=lambda d: d["environment"]["date"])
