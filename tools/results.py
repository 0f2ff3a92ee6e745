"""Results files: reading them with every key checked, writing them whole or not at all, and asking them for
figures.

    {"environment": {...},            of the newest run
     "runs": {run: environment},      of the older runs whose records the file holds, by the run's start time
     "records": [{...}, ...]}

A record is one implementation at one shape in one run. Either it was timed, or it has `error`, which says
why not. A ratio only ever pairs two records of one run.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.bench.shapes import harmonic_mean, on_grid

ROOT = Path(__file__).resolve().parent.parent
RESULTS_DIR = ROOT / "docs" / "results"
RATIO_SEQLENS = (1024, 2048, 4096, 8192, 16384)


class ResultsError(Exception):
    """A results file cannot be used. The message names the file and what is wrong with it."""


class NoData(LookupError):
    """The results hold nothing, or nothing unambiguous, for what was asked. The message says what was
    asked."""


@dataclass(frozen=True)
class Results:
    """One results file."""

    path: Path
    environment: dict
    runs: dict[str, dict]
    records: list[dict]

    def environment_of(self, record: dict) -> dict:
        return self.runs.get(record["run"], self.environment)


_SHAPE = ("batch", "nheads", "nheads_k", "seqlen_q", "seqlen_k", "headdim")
_SAME_CASE = ("device", "dtype", "mode", *_SHAPE, "causal")


def case_of(record: dict) -> tuple:
    """What two records have to share to be of the same case: device, dtype, mode and shape."""
    return tuple(record[key] for key in _SAME_CASE)


def load(path) -> Results:
    """Read and check one results file. Raises ResultsError naming the file and what is wrong."""
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise ResultsError(f"{path}: cannot be read: {problem.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise ResultsError(f"{path}: damaged, not JSON: {problem}") from None
    if not isinstance(data, dict):
        raise ResultsError(f"{path}: holds a {type(data).__name__}; accepted: an object with environment and records")
    for key, kind in (("environment", dict), ("records", list)):
        if not isinstance(data.get(key), kind):
            raise ResultsError(f"{path}: {key} is missing or no {'object' if kind is dict else 'list'}")
    environment, records = data["environment"], data["records"]
    for key in ("device", "date"):
        if not isinstance(environment.get(key), str):
            raise ResultsError(f"{path}: environment has no {key}")
    runs = data.get("runs", {})
    if not isinstance(runs, dict) or not all(isinstance(run, dict) for run in runs.values()):
        raise ResultsError(f"{path}: runs is no object of environments")
    for i, record in enumerate(records):
        problem = _problem(record)
        if problem:
            name = f" ({record['name']})" if isinstance(record, dict) and "name" in record else ""
            raise ResultsError(f"{path}: record {i}{name}: {problem}")
        record.setdefault("run", environment["date"])
        record.setdefault("where", "gpu")
    return Results(path, environment, runs, records)


def load_all(paths: Iterable) -> tuple[list[Results], list[ResultsError]]:
    """Those that can be used, and what is wrong with the others."""
    good, bad = [], []
    for path in paths:
        try:
            good.append(load(path))
        except ResultsError as problem:
            bad.append(problem)
    return good, bad


def committed() -> list[Path]:
    """The results files that the documentation quotes. Other JSON may lie beside them: no "records", not
    one of ours."""
    return [path for path in sorted(RESULTS_DIR.glob("*.json")) if _is_meant_as_results(path)]


def _is_meant_as_results(path: Path) -> bool:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True  # damaged: to be reported by `load`, not passed over
    return isinstance(data, dict) and "records" in data


def save(path, environment: dict, runs: dict[str, dict], records: list[dict]) -> None:
    """Write a results file: one record a line, whole or not at all."""
    older = {record["run"] for record in records} - {environment["date"]}
    lines = ",\n".join(json.dumps(record, allow_nan=False) for record in records)
    head = json.dumps(environment, indent=1, allow_nan=False)
    kept = json.dumps({run: env for run, env in sorted(runs.items()) if run in older}, indent=1, allow_nan=False)
    write_text(path, f'{{"environment": {head},\n"runs": {kept},\n"records": [\n{lines}\n]}}\n')


def write_text(path, text: str) -> None:
    """`write_bytes` of a text in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path, data: bytes) -> None:
    """Write a file under a temporary name beside it, then rename: a reader sees the old one or the new
    one."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)  # mkstemp makes files for the owner alone
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def slug(device: str) -> str:
    """A device's name as part of a file name: "NVIDIA H200" -> "h200"."""
    words = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return words.removeprefix("nvidia-") or "device"


def is_timed(record: dict) -> bool:
    return "error" not in record


def matches_name(record: dict, name: str) -> bool:
    """A stage answers to its name and to its number ("s12"), a peer to its name."""
    short = record["name"].partition("_")[0] if record["kind"] == "stage" else None
    return name in (record["name"], short)


def entries(records: Iterable[dict], name: str, *, seqlen: int | None = None, device: str | None = None, **fields):
    """The timed records of `name` on the grids, for which every given field is equal.

    seqlen: both lengths; device: a part of the device's name; fields: headdim, causal, dtype.
    """
    return [
        record
        for record in records
        if is_timed(record)
        and matches_name(record, name)
        and on_grid(record)
        and (seqlen is None or record["seqlen_q"] == record["seqlen_k"] == seqlen)
        and (device is None or device.lower() in record["device"].lower())
        and all(record[key] == value for key, value in fields.items() if value is not None)
    ]


def entry(records: Iterable[dict], name: str, **fields) -> dict:
    """The newest record of one entry. Raises NoData when there is none, or when more than one entry
    answers."""
    found = entries(records, name, **fields)
    if not found:
        raise NoData(f"no timed entry for {_asked(name, fields)}")
    _one_case(found, name, fields)
    return max(found, key=lambda record: record["run"])


def pair(records: Iterable[dict], name: str, other: str, **fields) -> tuple[dict, dict]:
    """The newest records of two implementations at one case in one run. Raises NoData as `entry` does."""
    records = list(records)
    beside = {(case_of(record), record["run"]): record for record in entries(records, other, **fields)}
    found = [record for record in entries(records, name, **fields) if (case_of(record), record["run"]) in beside]
    if not found:
        raise NoData(f"no run timed both {name} and {other} at {_asked('', fields)}")
    _one_case(found, name, fields)
    newest = max(found, key=lambda record: record["run"])
    return newest, beside[case_of(newest), newest["run"]]


def ratio(
    records: Iterable[dict], stage: str, peer: str, *, headdim: int, causal: bool,
    seqlens: Sequence[int] = RATIO_SEQLENS, **fields,
) -> float:  # fmt: skip
    """How many times `peer`'s throughput `stage` has: the harmonic mean over `seqlens` of the ratios at
    each length.

    Raises NoData naming the length when one is missing: a mean over fewer lengths is another figure.
    """
    records = list(records)
    ratios = []
    for seqlen in seqlens:
        ours, theirs = pair(records, stage, peer, headdim=headdim, causal=causal, seqlen=seqlen, **fields)
        ratios.append(theirs["ms_median"] / ours["ms_median"])
    return harmonic_mean(ratios)


def spread(record: dict) -> float:
    """How far a record's samples lie apart, relative to their median: (90th - 10th percentile) / median."""
    return (percentile(record["ms_samples"], 90) - percentile(record["ms_samples"], 10)) / record["ms_median"]


def percentile(samples: Sequence[float], percent: float) -> float:
    """By linear interpolation between the closest ranks."""
    ordered = sorted(samples)
    position = (len(ordered) - 1) * percent / 100
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def _asked(name: str, fields: dict) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in fields.items() if value is not None)]).strip()


def _one_case(found: list[dict], name: str, fields: dict) -> None:
    cases = {case_of(record): record for record in found}
    if len(cases) > 1:
        differ = [k for k in _SAME_CASE if len({record[k] for record in cases.values()}) > 1]
        values = "; ".join(f"{k}: {', '.join(sorted(str(r[k]) for r in _distinct(cases.values(), k)))}" for k in differ)
        raise NoData(f"{len(cases)} entries answer to {_asked(name, fields)}: they differ in {values}; say which")


def _distinct(records: Iterable[dict], key: str) -> list[dict]:
    return list({record[key]: record for record in records}.values())


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _problem(record) -> str:
    """What is wrong with one record; "" when nothing is."""
    if not isinstance(record, dict):
        return f"is a {type(record).__name__}; accepted: an object"
    for key in ("name", "kind", "device", "dtype", "mode", *_SHAPE, "causal"):
        if key not in record:
            return f"has no {key}"
    for key in ("name", "device", "dtype"):
        if not isinstance(record[key], str) or not record[key]:
            return f"{key} is {record[key]!r}; accepted: text"
    if record["kind"] not in ("stage", "peer"):
        return f"kind is {record['kind']!r}; accepted: stage, peer"
    if record["mode"] not in ("fwd", "bwd"):
        return f"mode is {record['mode']!r}; accepted: fwd, bwd"
    if not isinstance(record["causal"], bool):
        return f"causal is {record['causal']!r}; accepted: true, false"
    for key in _SHAPE:
        if not isinstance(record[key], int) or isinstance(record[key], bool) or record[key] < 1:
            return f"{key} is {record[key]!r}; accepted: a whole number, 1 or more"
    if record["nheads"] % record["nheads_k"]:
        return f"nheads is {record['nheads']}; accepted: a multiple of nheads_k, {record['nheads_k']}"
    if not isinstance(record.get("run", ""), str):
        return f"run is {record['run']!r}; accepted: its start time as text"
    if "error" in record:
        return "" if isinstance(record["error"], str) and record["error"] else "error is no text"
    for key in ("ms_median", "tflops"):
        if not _is_number(record.get(key)) or record[key] <= 0:
            return f"{key} is {record.get(key)!r}; accepted: a number above 0"
    for key in ("peak_bytes", "max_error"):
        if not _is_number(record.get(key)) or record[key] < 0:
            return f"{key} is {record.get(key)!r}; accepted: a number, 0 or more"
    samples = record.get("ms_samples")
    if not isinstance(samples, list) or not samples or not all(_is_number(ms) and ms > 0 for ms in samples):
        return "ms_samples is no list of numbers above 0"
    return ""
