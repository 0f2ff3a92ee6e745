"""The figures that documents quote, each a pure function from records to text.

A marker names a kind and its keys; `figure(data, kind, keys)` gives the text that belongs in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stages import STAGES, get
from tools import overhead as host_time
from tools import results
from tools.ablate import table as ablation
from tools.bench.peers import PEERS
from tools.bench.report import mebibytes, milliseconds, three_digits
from tools.bench.shapes import SEQLENS, Shape, grid_shape
from tools.emulator import agreement
from tools.plot import traffic
from tools.profile import COUNTERS
from tools.sass import records as machine_code

BASELINE = "torch_fa2"
TABLE_SEQLEN = 4096


class FigureError(ValueError):
    """A marker asks for something that there is not. The message says what, and what is accepted."""


@dataclass(frozen=True)
class Kind:
    """function(data, **keys) -> text; optional keys may be left out. block: a table, on lines of its own."""

    function: Callable[..., str]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    block: bool = False


@dataclass(frozen=True)
class Data:
    """What figures are made from: all files' records, the environments of their runs, the profiles, the documents
    of tools.sass, those of tools.emulator.agreement, the files of tools.ablate and of tools.overhead."""

    records: Sequence[dict]
    environments: Sequence[dict]
    profiles: Sequence[dict] = ()
    sass: Sequence[dict] = ()
    emulator: Sequence[dict] = ()
    ablations: Sequence[results.Results] = ()
    overheads: Sequence[dict] = ()

    @classmethod
    def of(
        cls,
        files: Sequence[results.Results],
        profiles: Sequence[dict] = (),
        sass: Sequence[dict] = (),
        emulator: Sequence[dict] = (),
        ablations: Sequence[results.Results] = (),
        overheads: Sequence[dict] = (),
    ) -> Data:
        return cls(
            [record for file in files for record in file.records],
            [environment for file in files for environment in (file.environment, *file.runs.values())],
            profiles,
            sass,
            emulator,
            ablations,
            overheads,
        )


def load_profile(path) -> list[dict]:
    """The records of a file of tools.profile, each with its `device` and `date`, and `nvrtc`: its version, or None.

    Raises ResultsError.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        where = {key: data["environment"][key] for key in ("device", "date")}
        where["nvrtc"] = data["environment"].get("nvrtc")  # what compiled the CUDA stages
        made = [where | profile for profile in data["profiles"]]
        for profile in made:
            _ = [profile[key] for key in ("name", "dtype", "seqlen", "headdim", "causal")]
            if not all(math.isfinite(value) for value in profile["counters"].values()):
                raise ValueError("a counter is no finite number")
    except OSError as problem:
        raise results.ResultsError(f"{path}: cannot be read: {problem.strerror}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        raise results.ResultsError(f"{path}: damaged: {type(problem).__name__}: {problem}") from None
    return made


def figure(data: Data, kind: str, keys: Mapping[str, str]) -> str:
    """The text of one marker. Raises FigureError for an unknown kind, key or value, and for missing data."""
    if kind not in KINDS:
        raise FigureError(f"kind is {kind!r}; accepted: {', '.join(KINDS)}")
    spec = KINDS[kind]
    for key in spec.required:
        if key not in keys:
            raise FigureError(f"{kind} needs {key}=; its keys: {usage(spec)}")
    for key in keys:
        if key not in spec.required + spec.optional:
            raise FigureError(f"{kind} has no key {key!r}; its keys: {usage(spec)}")
    values = {key: _value(key, text) for key, text in keys.items()}
    try:
        return spec.function(data, **values)
    except results.NoData as problem:
        raise FigureError(str(problem)) from None


def usage(spec: Kind) -> str:
    return " ".join([*(f"{key}=" for key in spec.required), *(f"[{key}=]" for key in spec.optional)]) or "none"


def _value(key: str, text: str):
    if key in ("stage", "over"):
        return _name(key, text)
    if key == "peer":
        if text not in PEERS:
            raise FigureError(f"peer is {text!r}; accepted: {', '.join(PEERS)}")
        return text
    if key == "causal":
        if text not in ("yes", "no"):
            raise FigureError(f"causal is {text!r}; accepted: yes, no")
        return text == "yes"
    if key in ("headdim", "seqlen"):
        digits, factor = (text[:-1], 1024) if text.endswith("k") else (text, 1)
        if not digits.isdecimal() or int(digits) < 1:
            raise FigureError(f"{key} is {text!r}; accepted: a whole number such as 4096 or 4k")
        return int(digits) * factor
    return text


def _name(key: str, text: str) -> str:
    """A stage by name or number, or a peer."""
    if text in PEERS or text == host_time.SDPA:
        return text
    try:
        return get(text).name
    except KeyError as problem:
        raise FigureError(f"{key}: {problem}; or a peer: {', '.join(PEERS)}") from None


# Functions of one entry. `where`: headdim, seqlen, causal, dtype and device; causal is "no" unless given.


def _entry(data: Data, stage: str, where: dict) -> dict:
    return results.entry(data.records, stage, **{"causal": False, **where})


def tflops(data: Data, stage: str, **where) -> str:
    return f"{three_digits(_entry(data, stage, where)['tflops'])} TFLOP/s"


def time(data: Data, stage: str, **where) -> str:
    return milliseconds(_entry(data, stage, where)["ms_median"])


def memory(data: Data, stage: str, **where) -> str:
    return mebibytes(_entry(data, stage, where)["peak_bytes"])


def spread(data: Data, stage: str, **where) -> str:
    return f"{100 * results.spread(_entry(data, stage, where)):.1f} %"


def speedup(data: Data, stage: str, over: str, **where) -> str:
    ours, theirs = results.pair(data.records, stage, over, **{"causal": False, **where})
    return times(theirs["ms_median"] / ours["ms_median"])


def times(ratio: float) -> str:
    """0.018×, 1.46×, 12.3×, 123×."""
    return f"{ratio:.2f}×" if 0.0995 <= ratio < 9.995 else f"{three_digits(ratio)}×"


def ratio(data: Data, stage: str, peer: str, headdim: int, causal: bool, **where) -> str:
    return times(results.ratio(data.records, stage, peer, headdim=headdim, causal=causal, **where))


def ratio512(data: Data, stage: str, peer: str, headdim: int, causal: bool, **where) -> str:
    lengths = (512,)
    return times(results.ratio(data.records, stage, peer, headdim=headdim, causal=causal, seqlens=lengths, **where))


# Read by the profiler.


def counter(
    data: Data,
    stage: str,
    name: str,
    headdim: int = 128,
    causal: bool = False,
    seqlen: int = 4096,
    device: str = "",
) -> str:
    if name not in COUNTERS:
        raise FigureError(f"name is {name!r}; accepted: {', '.join(COUNTERS)}")
    wanted = {"name": stage, "headdim": headdim, "causal": causal, "seqlen": seqlen}
    found = [
        profile
        for profile in data.profiles
        if all(profile[key] == value for key, value in wanted.items())
        and name in profile["counters"]
        and device.lower() in profile["device"].lower()
    ]
    asked = " ".join(f"{key}={value}" for key, value in wanted.items())
    if not found:
        raise results.NoData(f"no profile has {name} of {asked}")
    devices = sorted({profile["device"] for profile in found})
    if len(devices) > 1:
        raise results.NoData(f"profiles of {', '.join(devices)} have {asked}; say which, by device=")
    newest = max(found, key=lambda profile: profile["date"])
    return quantity(newest["counters"][name], COUNTERS[name][1])


def quantity(value: float, unit: str) -> str:
    """A counter's value with its unit: 36.5 %, 13.3 GB, 1.03 ms, 369 million."""
    if unit == "%":
        return f"{value:.1f} %"
    if unit == "ns":
        return milliseconds(value / 1e6)
    scales = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if unit == "bytes" else ((1e9, "billion"), (1e6, "million"))
    for scale, word in scales:
        if value >= 0.9995 * scale:
            return f"{three_digits(value / scale)} {word}"
    return f"{value:,.0f}{' bytes' if unit == 'bytes' else ''}"


# Read from the machine code.


def sass(
    data: Data,
    stage: str,
    name: str,
    arch: str = "90a",
    headdim: int = 128,
    causal: bool = False,
    dtype: str = "bfloat16",
) -> str:
    record = machine_code.find(data.sass, stage, arch=arch, headdim=headdim, causal=causal, dtype=dtype)
    try:
        return machine_code.value(record, name)
    except KeyError:
        accepted = (
            f"{', '.join(machine_code.FIELDS)}; {', '.join(machine_code.COUNTS)}, of the main loop with loop: before"
        )
        raise FigureError(f"name is {name!r}; accepted: {accepted}") from None


# Counted in the emulator and on the hardware.

EMULATOR_COUNTERS = tuple(name for name, counter in agreement.COUNTERS.items() if counter.required)


def emulator_run(data: Data, device: str = "") -> str:
    """The GPU, the day, the profiler's version."""
    environment = agreement.choose(data.emulator, device)["environment"]
    return f"{environment['device']}, {environment['date'][:10]}, Nsight Compute {environment['ncu']}"


def emulator_agreement(data: Data, of: str, device: str = "") -> str:
    """How many pairs of counters there are (of=all), of which the hardware counts the emulator's number in every run
    (equal) or more in some (more), or how many runs each has (runs)."""
    document = agreement.choose(data.emulator, device)
    same = [set(runs) == {number} for _, runs, number in agreement.pairs(document)]
    counts = {"all": len(same), "equal": sum(same), "more": len(same) - sum(same), "runs": document["runs"]}
    if of not in counts:
        raise FigureError(f"of is {of!r}; accepted: {', '.join(counts)}")
    return f"{counts[of]:,}"


def emulator_table(data: Data, of: str, counters: str = ",".join(EMULATOR_COUNTERS), device: str = "") -> str:
    """The cases of a group, of=stages or of=accesses: the emulator's counters, and how far the hardware's are from
    them where they are. counters: which, with commas between them."""
    names = counters.split(",")
    for name in names:
        if name not in agreement.COUNTERS:
            raise FigureError(f"counters has {name!r}; accepted: {', '.join(agreement.COUNTERS)}")
    records = [r for r in agreement.choose(data.emulator, device)["records"] if r["group"] == of]
    rows = [[r["case"], *(agreement.cell(r, n) for n in names)] for r in records if set(names) <= set(r["hardware"])]
    if not rows:
        raise results.NoData(f"no record of={of} has {counters}; of is one of stages, accesses")
    return table(["launch", *(name.replace("cp_async", "cp.async").replace("_", " ") for name in names)], rows)


# The final kernel with one thing changed, and the host's part of a call.


def ablation_table(data: Data, device: str = "") -> str:
    """Every toggle of tools.ablate: the change of throughput with it at each shape, "none" where none can be told."""
    header, rows = ablation.rows(ablation.choose(data.ablations, device).records)
    return table(header, rows, text_columns=2)


def ablation_gain(
    data: Data, toggle: str, headdim: int, causal: bool = False, seqlen: int = TABLE_SEQLEN, device: str = ""
) -> str:
    """One cell of the table: by how much a toggle changes throughput at a shape of the grid."""
    shape = grid_shape(seqlen, headdim, causal)
    found = {r["name"]: r for r in ablation.choose(data.ablations, device).records if Shape.of(r) == shape}
    for name in (toggle, ablation.UNCHANGED):
        if name not in found:
            raise results.NoData(
                f"the ablation has no {name} at {shape}; at this shape: {', '.join(found) or 'nothing'}"
            )
    return ablation.cell(found[ablation.UNCHANGED], found[toggle])


def ablation_run(data: Data, device: str = "") -> str:
    """The GPU, the day, the stage whose kernel it was."""
    environment = ablation.choose(data.ablations, device).environment
    return f"{environment['device']}, {environment['date'][:10]}, {environment['stage']}"


def overhead(data: Data, stage: str, device: str = "") -> str:
    return f"{three_digits(host_time.find(data.overheads, stage, device)['us_median'])} µs"


def first_call(data: Data, stage: str, when: str, device: str = "") -> str:
    """Of the first call of a process: when=cold, nothing compiled before; when=warm, compiled before, on disk."""
    if when not in ("cold", "warm"):
        raise FigureError(f"when is {when!r}; accepted: cold, warm")
    return f"{host_time.find(data.overheads, stage, device, 'first_calls')[f'{when}_s']:.1f} s"


# Counted, not measured.


def _counted(stage: str, headdim: int, seqlen: int, causal: bool, count: Callable) -> int:
    shape = grid_shape(seqlen, headdim, causal)
    number = count({"name": stage, "dtype": "bfloat16", **asdict(shape)})
    if number is None:
        raise FigureError(f"stage is {stage!r}; counted are {', '.join(traffic.V1 + traffic.V2)}")
    return number


def moved(data: Data, stage: str, headdim: int, seqlen: int, causal: bool = False) -> str:
    return f"{three_digits(_counted(stage, headdim, seqlen, causal, traffic.asked_bytes) / 1e9)} GB"


def programs(data: Data, stage: str, headdim: int, seqlen: int) -> str:
    return str(_counted(stage, headdim, seqlen, False, traffic.programs))


# The device.


def _environment(data: Data, device: str | None) -> dict:
    """The newest environment of the one GPU there is; of the CPU, when no GPU was measured."""
    there = [env for env in data.environments if device is None or device.lower() in env["device"].lower()]
    gpus = {record["device"] for record in data.records if record["where"] == "gpu"}
    there = [env for env in there if env["device"] in gpus] or there
    names = sorted({env["device"] for env in there})
    if len(names) != 1:
        found = f"{len(names)} devices answer: {', '.join(names)}; say which, by device=" if names else "no results"
        raise results.NoData(f"{found}{f' of device {device!r}' if device and not names else ''}")
    return max(there, key=lambda env: env["date"])


def device(data: Data, stage: str | None = None, device: str | None = None) -> str:
    """The GPU and the day of its newest run; with `stage`, that stage's: NumPy stages run on the CPU."""
    if stage is None:
        environment = _environment(data, device)
        return f"{environment['device']}, {environment['date'][:10]}"
    found = results.entries(data.records, stage, device=device)
    names = sorted({record["device"] for record in found})
    if len(names) != 1:
        what = f"{len(names)} devices timed {stage}: {', '.join(names)}; say which, by device=" if names else ""
        raise results.NoData(what or f"no timed entry for {stage}")
    return f"{names[0]}, {max(record['run'] for record in found)[:10]}"


def ceiling(data: Data, of: str, device: str | None = None) -> str:
    units = {"copy": ("copy_tb_per_s", "TB/s"), "matmul": ("matmul_tflops", "TFLOP/s")}
    if of not in units:
        raise FigureError(f"of is {of!r}; accepted: {', '.join(units)}")
    key, unit = units[of]
    measured = _environment(data, device).get("ceilings")
    if not measured:
        raise results.NoData("the newest run measured no ceilings")
    return f"{three_digits(measured[key])} {unit}"


# Tables.


def _or_dash(function: Callable[..., str], *arguments, **keys) -> str:
    try:
        return function(*arguments, **keys)
    except results.NoData:
        return "–"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A Markdown table; the columns after the first `text_columns` are right-aligned."""
    rule = ["---" if i < text_columns else "---:" for i in range(len(header))]
    lines = [header, rule, *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def ladder_table(data: Data, links: str | None = None, lessons: str | None = None, **where) -> str:
    """Every stage: its idea, throughput at 4k, and the ratio to FlashAttention-2 for each head dim and mask.

    links: where the stage folders are from the document, to make links of the names; lessons: where the notebooks are.
    """
    columns = [(d, c) for d in (64, 128) for c in (False, True)]
    header = [
        "stage",
        "idea",
        "TFLOP/s at 4k, d128",
        *(f"× FA2, d{d}{' causal' if c else ''}" for d, c in columns),
    ]
    rows = []
    for stage in STAGES:
        name = stage.name if links is None else f"[{stage.name}]({links.rstrip('/')}/{stage.name}/)"
        if lessons is not None:
            name += f" · [lesson]({lessons.rstrip('/')}/{stage.name}.ipynb)"
        speed = "on the CPU"
        if stage.capability.backend != "numpy":
            speed = _or_dash(tflops, data, stage.name, headdim=128, seqlen=TABLE_SEQLEN, **where)
        ratios = (_or_dash(ratio, data, stage.name, BASELINE, headdim=d, causal=c, **where) for d, c in columns)
        rows.append([name, stage.idea, speed.removesuffix(" TFLOP/s"), *ratios])
    return table(header, rows, text_columns=2)


def peers_table(data: Data, headdim: int, causal: bool, **where) -> str:
    """TFLOP/s by length: every stage and peer that was timed at this head dim and mask."""
    header = ["TFLOP/s", *(f"{n // 1024}k" if n >= 1024 else str(n) for n in SEQLENS), "× FA2"]
    rows = []
    for name in [*(stage.name for stage in STAGES), *PEERS]:
        keys = {"headdim": headdim, "causal": causal, **where}
        cells = [_or_dash(tflops, data, name, seqlen=n, **keys).removesuffix(" TFLOP/s") for n in SEQLENS]
        if any(cell != "–" for cell in cells) and results.entries(data.records, name, **keys)[0]["where"] == "gpu":
            rows.append([name, *cells, _or_dash(ratio, data, name, BASELINE, **keys)])
    if not rows:
        raise results.NoData(f"no timed entry for headdim={headdim} causal={'yes' if causal else 'no'}")
    return table(header, rows)


_WHERE = ("dtype", "device")
KINDS = {
    "ratio": Kind(ratio, ("stage", "peer", "headdim", "causal"), _WHERE),
    "ratio512": Kind(ratio512, ("stage", "peer", "headdim", "causal"), _WHERE),
    "tflops": Kind(tflops, ("stage",), ("headdim", "causal", "seqlen", *_WHERE)),
    "time": Kind(time, ("stage",), ("headdim", "causal", "seqlen", *_WHERE)),
    "memory": Kind(memory, ("stage",), ("headdim", "causal", "seqlen", *_WHERE)),
    "spread": Kind(spread, ("stage",), ("headdim", "causal", "seqlen", *_WHERE)),
    "speedup": Kind(speedup, ("stage", "over"), ("headdim", "causal", "seqlen", *_WHERE)),
    "counter": Kind(counter, ("stage", "name"), ("headdim", "causal", "seqlen", "device")),
    "sass": Kind(sass, ("stage", "name"), ("arch", "headdim", "causal", "dtype")),
    "emulator-run": Kind(emulator_run, (), ("device",)),
    "emulator-agreement": Kind(emulator_agreement, ("of",), ("device",)),
    "emulator-table": Kind(emulator_table, ("of",), ("counters", "device"), block=True),
    "ablation-table": Kind(ablation_table, (), ("device",), block=True),
    "ablation": Kind(ablation_gain, ("toggle", "headdim"), ("causal", "seqlen", "device")),
    "ablation-run": Kind(ablation_run, (), ("device",)),
    "overhead": Kind(overhead, ("stage",), ("device",)),
    "first-call": Kind(first_call, ("stage", "when"), ("device",)),
    "moved": Kind(moved, ("stage", "headdim", "seqlen"), ("causal",)),
    "programs": Kind(programs, ("stage", "headdim", "seqlen")),
    "device": Kind(device, (), ("stage", "device")),
    "ceiling": Kind(ceiling, ("of",), ("device",)),
    "ladder-table": Kind(ladder_table, (), ("links", "lessons", *_WHERE), block=True),
    "peers-table": Kind(peers_table, ("headdim", "causal"), _WHERE, block=True),
}
