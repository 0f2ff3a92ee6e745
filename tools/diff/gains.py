"""What a step bought, from recorded data only: times, hardware counters, and what the compiler made of the kernels.

What nobody recorded is said to be missing. A difference in time within the spread of the samples is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stages.common.record import Stage
from tools import results
from tools.bench.report import mebibytes, three_digits
from tools.bench.shapes import harmonic_mean
from tools.diff.source import source
from tools.profile import COUNTERS
from tools.sass import mix
from tools.sass import records as machine_code

TIME, MEMORY, HARDWARE, RESOURCES, LOOP = "time", "memory", "counters", "resources", "loop"
BETTER, WORSE, NONE, DIFFERENT, MISSING = "better", "worse", "none", "different", "missing"
LENGTH = 4096  # the length that stands for all of them, where it was measured
ARCH, DTYPE = "90a", "bfloat16"
_REGISTERS = ("registers", "shared", "spill", "stack", "blocks", "limit")


@dataclass(frozen=True)
class Gain:
    """One row of "what it bought". group: TIME, ...; title: of the group, with device, shape and date.

    verdict: BETTER or WORSE (times only: a counter is no aim), NONE, DIFFERENT, or MISSING; then `note` says what is.
    """

    group: str
    title: str
    name: str
    old: str
    new: str
    change: str
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class Recorded:
    """What there is to read from. problems: files that cannot be used, each with its reason."""

    files: Sequence[results.Results] = ()
    profiles: Sequence[dict] = ()
    sass: Sequence[dict] = ()
    problems: Sequence[str] = field(default=())

    @classmethod
    def committed(cls) -> Recorded:
        """What the repository holds, in docs/results."""
        from tools.figures import load_profile

        files, damaged = results.load_all(results.committed())
        problems = [str(problem) for problem in damaged]
        profiles, sass = [], []
        for kind, take in (("profile", lambda path: profiles.extend(load_profile(path))),
                           ("sass", lambda path: sass.append(machine_code.load(path)))):  # fmt: skip
            for path in sorted((results.RESULTS_DIR / kind).glob("*.json")):
                try:
                    take(path)
                except results.ResultsError as problem:
                    problems.append(str(problem))
        return cls(files, profiles, sass, problems)


def bought(a: str | Path | Stage, b: str | Path | Stage, recorded: Recorded | None = None) -> list[Gain]:
    """What the step from `a` to `b` bought. recorded: by default what the repository holds. Raises SourceError."""
    old, new = source(a), source(b)
    if old.stage is None or new.stage is None:
        file = next(one for one in (old, new) if one.stage is None)
        other = old.stage or new.stage
        note = f"nothing is recorded of the file {file.label}"
        if other is not None and other.capability.backend == "cuda" and file.syntax == "cuda":
            note += f"; `python -m tools.sass {other.short} {file.label}` and `python -m tools.emulator {other.short} "
            note += f"{file.label} --summary` measure it"
        return [_missing(TIME, "What it bought", note)]
    recorded = recorded or Recorded.committed()
    pair = old.stage, new.stage
    made = [*times(recorded, *pair), *counters(recorded, *pair), *resources(recorded, *pair)]
    return made + [_missing(TIME, "Files that cannot be read", problem) for problem in recorded.problems]


def _missing(group: str, title: str, note: str) -> Gain:
    return Gain(group, title, "", "", "", "", MISSING, note)


# ---- time and memory ---------------------------------------------------------------------------------------


def times(recorded: Recorded, old: Stage, new: Stage) -> Iterator[Gain]:
    """A row for each head dim and mask that one run has timed both at."""
    pairs = _timed_together([record for file in recorded.files for record in file.records], old.name, new.name)
    if not pairs:
        yield _missing(TIME, "Time", f"no run has timed both {old.short} and {new.short}")
        return
    by_case: dict[tuple, dict[int, tuple[dict, dict]]] = {}
    for a, b in pairs:
        case = (a["device"], a["dtype"], a["headdim"], a["causal"])
        lengths = by_case.setdefault(case, {})
        if a["seqlen_q"] not in lengths or lengths[a["seqlen_q"]][0]["run"] < a["run"]:
            lengths[a["seqlen_q"]] = a, b
    memory = []
    for (device, dtype, headdim, causal), lengths in sorted(by_case.items(), key=lambda item: item[0]):
        length = LENGTH if LENGTH in lengths else max(lengths)
        a, b = lengths[length]
        ratio, spread = a["ms_median"] / b["ms_median"], max(results.spread(a), results.spread(b))
        name = f"d{headdim}{', causal' if causal else ''}"
        title = f"Time: TFLOP/s at length {length}, {dtype}, {device}, {a['run'][:10]}"
        change, verdict = _speed(ratio, spread)
        yield Gain(TIME, title, name, _tflops(a), _tflops(b), change, verdict, _over_lengths(lengths))
        if not causal and a["peak_bytes"] != b["peak_bytes"]:
            title = f"Memory beside the inputs at length {length}, {dtype}"
            cells = mebibytes(a["peak_bytes"]), mebibytes(b["peak_bytes"])
            memory.append(Gain(MEMORY, title, name, *cells, _factor(a["peak_bytes"], b["peak_bytes"]), DIFFERENT))
    yield from memory


def _timed_together(records: Iterable[dict], old: str, new: str) -> list[tuple[dict, dict]]:
    records = [r for r in records if r["name"] in (old, new) and r["mode"] == "fwd"]
    made = {name: results.entries(records, name) for name in (old, new)}
    beside = {(results.case_of(r), r["run"]): r for r in made[new]}
    return [(r, beside[key]) for r in made[old] if (key := (results.case_of(r), r["run"])) in beside]


def _tflops(record: dict) -> str:
    return three_digits(record["tflops"])


def _speed(ratio: float, spread: float) -> tuple[str, str]:
    if abs(ratio - 1) <= spread:
        return f"none: within the spread, {100 * spread:.1f} %", NONE
    return (f"{_times(ratio)}, faster", BETTER) if ratio > 1 else (f"{_times(ratio)}, slower", WORSE)


def _over_lengths(lengths: dict[int, tuple[dict, dict]]) -> str:
    """The mean over RATIO_SEQLENS, as the tables have it; over what there is, where that is less."""
    wanted = [n for n in results.RATIO_SEQLENS if n in lengths]
    if len(wanted) < 2:
        return ""
    mean = harmonic_mean([lengths[n][0]["ms_median"] / lengths[n][1]["ms_median"] for n in wanted])
    spread = max(results.spread(record) for n in wanted for record in lengths[n])
    over = f"over lengths {_k(wanted[0])} to {_k(wanted[-1])}"
    return f"none {over}" if abs(mean - 1) <= spread else f"{_times(mean)} {over}"


def _k(length: int) -> str:
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)


def _times(ratio: float) -> str:
    """Digits enough that no difference reads as 1.00."""
    return f"{ratio:.3f}×" if 0.95 < ratio < 1.05 else f"{three_digits(ratio)}×"


# ---- hardware counters -------------------------------------------------------------------------------------

_NOT_SHOWN = ("time",)  # that of a profiled kernel is no speed
_COUNTED = ("sectors of 32 bytes", "wavefronts", "warp instructions")  # units that the figure itself does not show


def counters(recorded: Recorded, old: Stage, new: Stage) -> Iterator[Gain]:
    """What a profiler counted of both, at one shape: length 4096, head dim 128 if there is that."""
    found: dict[tuple, dict[str, dict]] = {}
    for profile in recorded.profiles:
        if profile["name"] in (old.name, new.name):
            keys = ("device", "dtype", "batch", "nheads", "seqlen", "headdim", "causal")
            newest = found.setdefault(tuple(profile[key] for key in keys), {})
            if profile["name"] not in newest or newest[profile["name"]]["date"] < profile["date"]:
                newest[profile["name"]] = profile
    both = {case: made for case, made in found.items() if {old.name, new.name} <= set(made)}
    if not both:
        there = {name for made in found.values() for name in made}
        lacking = [stage.short for stage in (old, new) if stage.name not in there]
        why = f"no profile of {' and '.join(lacking)}" if lacking else "no shape at which both were profiled"
        yield _missing(HARDWARE, "Hardware counters", why)
        return
    case = min(both, key=lambda case: (case[4] != LENGTH, case[5] != 128, case[6], case))
    device, dtype, batch, nheads, seqlen, headdim, causal = case
    a, b = both[case][old.name], both[case][new.name]
    shape = f"batch {batch}, {nheads} heads, length {seqlen}, d{headdim}{', causal' if causal else ''}, {dtype}"
    title = f"Hardware counters: {shape}, {device}, {b['date'][:10]}"
    for name, (_, unit, _) in COUNTERS.items():
        if name in _NOT_SHOWN or name not in a["counters"] or name not in b["counters"]:
            continue
        note = _other_compiler(recorded, a, b) if name == "registers" else ""
        yield from _counter(title, name, unit, a["counters"][name], b["counters"][name], note)


def _other_compiler(recorded: Recorded, *profiles: dict) -> str:
    """Why these registers need not be those of the machine code: versions of NVRTC allocate differently. "" if one
    version made both, or nobody recorded which."""
    ran = {profile.get("nvrtc") for profile in profiles}
    names = {profile["name"] for profile in profiles}
    read = {document.get("compiler", {}).get("nvrtc") for document in recorded.sass if document["stage"] in names}
    if None in ran | read or not read or ran == read:
        return ""
    return (
        f"compiled by NVRTC {_versions(ran)}; the machine code below by {_versions(read)}, which may allocate otherwise"
    )


def _versions(found: set[str]) -> str:
    return " and ".join(sorted(found))


def _counter(title: str, name: str, unit: str, old: float, new: float, note: str = "") -> Iterator[Gain]:
    from tools.figures import quantity

    if not old and not new:
        return
    if unit == "%":
        change = f"{new - old:+.1f} points".replace("-", "−")
    else:
        change = _factor(old, new)
    verdict = NONE if old == new else DIFFERENT
    cells = quantity(old, unit), quantity(new, unit), "none" if old == new else change
    label = name.replace("_", " ") + (f" ({unit.partition(' of ')[0]})" if unit in _COUNTED else "")
    yield Gain(HARDWARE, title, label, *cells, verdict, note)


def _factor(old: float, new: float) -> str:
    if not old or not new:
        return "to none" if old else "from none"
    if 0.5 < new / old < 2:
        percent = 100 * (new / old - 1)
        return f"{percent:+.1f} %".replace("-", "−") if abs(percent) >= 0.05 else "under 0.1 %"
    return f"{new / old:,.0f}×" if new / old >= 1000 else f"{three_digits(new / old)}×"


# ---- what the compiler made of them ------------------------------------------------------------------------


def resources(recorded: Recorded, old: Stage, new: Stage) -> Iterator[Gain]:
    """Registers, shared memory and occupancy of every head dim and mask; the main loop's instructions at one."""
    title = f"Machine code, sm_{ARCH}, {DTYPE}"
    for stage in (old, new):
        if stage.capability.backend != "cuda":
            yield _missing(RESOURCES, title, f"{stage.short} is no CUDA stage: nobody records its machine code")
            return
        if all(document["stage"] != stage.name for document in recorded.sass):
            yield _missing(RESOURCES, title, f"nothing is recorded of {stage.short}; `make sass` records it")
            return
        if why := _stale(recorded, stage):
            yield _missing(RESOURCES, title, why)
            return
    wanted = {"arch": ARCH, "dtype": DTYPE}
    both = []
    for headdim in sorted(set(old.capability.headdims) & set(new.capability.headdims)):
        for causal in (False, True):
            try:
                pair = [
                    machine_code.find(recorded.sass, stage.name, headdim=headdim, causal=causal, **wanted)
                    for stage in (old, new)
                ]
            except results.NoData as lacking:
                yield _missing(RESOURCES, title, str(lacking))
                return
            both.append((f"d{headdim}{', causal' if causal else ''}", headdim, causal, pair))
    for what in _REGISTERS:
        for where, _, _, (a, b) in both:
            yield from _resource(title, what, where, a, b)
    where, _, _, pair = max(both, key=lambda one: (one[1], not one[2]))
    yield from _loop(f"Instructions of the loop over K/V tiles: {where}, sm_{ARCH}, {DTYPE}", *pair)


def _stale(recorded: Recorded, stage: Stage) -> str:
    """A record of another kernel than the one that the diff shows would explain nothing."""
    from tools.nvrtc import source_hash

    document = next(document for document in recorded.sass if document["stage"] == stage.name)
    if document["source"] == source_hash(stage):
        return ""
    return f"{stage.short} has changed since its machine code was recorded; `make sass` records it"


def _resource(title: str, what: str, where: str, a: dict, b: dict) -> Iterator[Gain]:
    names = {"shared": "shared memory", "limit": "occupancy limited by", "blocks": "blocks a multiprocessor"}
    units = {"spill": " B", "stack": " B"}
    old, new = (machine_code.value(record, what) + units.get(what, "") for record in (a, b))
    if what in ("spill", "stack") and not a[what] and not b[what] or what == "limit" and old == new:
        return
    change = "none"
    if old != new:
        change = "" if what == "limit" else _difference(_number(a, what), _number(b, what), what)
    name = {"spill": "spilled"}.get(what, names.get(what, what))
    yield Gain(RESOURCES, title, f"{name}, {where}", old, new, change, NONE if old == new else DIFFERENT)


def _number(record: dict, what: str) -> int:
    return record["static_shared"] + record["dynamic_shared"] if what == "shared" else record[what]


def _difference(old: int, new: int, what: str) -> str:
    sign, size = "+" if new > old else "−", abs(new - old)
    return f"{sign}{size / 1024:g} KiB" if what == "shared" else f"{sign}{size:,}"


def _loop(title: str, a: dict, b: dict) -> Iterator[Gain]:
    if not a["loop"]["total"] or not b["loop"]["total"]:
        yield _missing(LOOP, title, "no loop around matrix instructions was found in one of the two")
        return
    counts = [{"all": r["loop"]["total"], **mix.families(r["loop"])} for r in (a, b)]
    for family in counts[0]:
        old, new = (count[family] for count in counts)
        if not old and not new:
            continue
        name = f"{family} ({mix.SAYS[family]})" if family in mix.SAYS else family
        change = "none" if old == new else _difference(old, new, "")
        yield Gain(LOOP, title, name, f"{old:,}", f"{new:,}", change, NONE if old == new else DIFFERENT)
