"""One record an instantiation, and the files that keep them: docs/results/sass/sNN.json.

    {"stage": "s20_mma", "source": hash of the kernel and its headers,
     "compiler": {"nvrtc": ..., "disassembler": ...}, "options": [...], "instantiations": [record, ...]}

The same source, compiler and disassembler give the same file, byte for byte.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stages.common.record import Stage
from tools import nvrtc, results
from tools.sass import mix
from tools.sass.occupancy import occupancy

KEYS = ("arch", "dtype", "headdim", "causal")
_NUMBERS = (
    "threads", "registers", "barriers", "static_shared", "dynamic_shared", "spill", "stack", "blocks", "warps",
)  # fmt: skip


@dataclass(frozen=True)
class Instantiation:
    """One to measure. dynamic_shared (bytes) and threads: a block's, at launch. disassembler: None, no instructions."""

    job: nvrtc.Job
    arch: str
    dtype: str
    headdim: int
    causal: bool
    threads: int
    dynamic_shared: int
    disassembler: Path | None


def instantiations(stage: Stage, disassembler: Path | None, **chosen) -> list[Instantiation]:
    """All that the stage has, architecture by architecture; `chosen`: arch, dtype, headdim, causal of those wanted.

    None, or a key left out, wants all.
    """
    import torch

    from stages.common.cuda import instantiation

    shared_bytes = importlib.import_module(stage.entry_module).shared_bytes
    threads = 32 * stage.tiles["num_warps"]
    every = [
        {"arch": arch, "dtype": dtype, "headdim": headdim, "causal": causal}
        for arch in nvrtc.ARCHES
        if int(arch.rstrip("a")) >= stage.capability.min_arch
        for dtype in stage.capability.dtypes
        for headdim in stage.capability.headdims
        for causal in (False, True)
    ]
    wanted = [one for one in every if all(chosen.get(key) in (None, one[key]) for key in KEYS)]
    made = []
    for one in wanted:
        name = instantiation(getattr(torch, one["dtype"]), one["headdim"], one["causal"])
        job = nvrtc.job(stage, name, one["arch"])
        made.append(
            Instantiation(
                job=job, **one, threads=threads, dynamic_shared=shared_bytes(one["headdim"]), disassembler=disassembler
            )
        )
    return made


def measure(one: Instantiation) -> dict:
    """Compile one instantiation, and count its instructions if there is a disassembler. Raises CompileError."""
    made = nvrtc.run(one.job)
    fits = occupancy(
        one.arch,
        registers=made.registers,
        shared=made.static_shared + one.dynamic_shared,
        threads=one.threads,
        barriers=made.barriers,
    )
    static = loop = None
    if one.disassembler:
        code = mix.parse(mix.disassemble(made.cubin, one.disassembler))
        static, loop = mix.count(code), mix.count(mix.main_loop(code))
    return {
        "arch": one.arch,
        "dtype": one.dtype,
        "headdim": one.headdim,
        "causal": one.causal,
        "threads": one.threads,
        "registers": made.registers,
        "barriers": made.barriers,
        "static_shared": made.static_shared,
        "dynamic_shared": one.dynamic_shared,
        "spill": made.spilled,
        "stack": made.stack,
        "blocks": fits.blocks,
        "warps": fits.warps,
        "occupancy": round(fits.fraction, 4),
        "limited_by": list(fits.limited_by),
        "warnings": made.warnings,
        "static": static,
        "loop": loop,
    }


def measure_all(wanted: Iterable[Instantiation], workers: int = 2) -> Iterator[dict]:
    """The records in order, each as soon as it is there."""
    return nvrtc.in_processes(measure, wanted, workers)


def faults(record: dict) -> list[str]:
    """Those of COMPILER_FAULTS that happened."""
    found = ["spill"] if record["spill"] else []
    if any("potential performance loss" in warning.lower() for warning in record["warnings"]):
        found.append("performance loss")
    return found


def document(stage: Stage, records: list[dict], disassembler: Path) -> str:
    """The text of the stage's file."""
    from stages.common.cuda import COMPILE_OPTIONS

    options = [option for option in (*COMPILE_OPTIONS, *nvrtc.CUPY_OPTIONS) if not option.startswith("-I")]
    head = {
        "stage": stage.name,
        "source": nvrtc.source_hash(stage),
        "compiler": {"nvrtc": nvrtc.compiler_version(), "disassembler": mix.disassembler_version(disassembler)},
        "options": options,
    }
    lines = ",\n".join(json.dumps(record, allow_nan=False) for record in records)
    return json.dumps(head, indent=1)[:-2] + f',\n "instantiations": [\n{lines}\n]}}\n'


def path_of(stage: Stage) -> Path:
    return results.RESULTS_DIR / "sass" / f"{stage.short}.json"


def load(path: Path) -> dict:
    """Read and check one file. Raises ResultsError naming it."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if not all(isinstance(data[key], str) for key in ("stage", "source")) or not data["instantiations"]:
            raise ValueError("stage or source is no text, or there are no instantiations")
        for record in data["instantiations"]:
            _check(record)
    except OSError as problem:
        raise results.ResultsError(f"{path}: cannot be read: {problem.strerror}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        raise results.ResultsError(f"{path}: damaged: {type(problem).__name__}: {problem}") from None
    return data


def _check(record: dict) -> None:
    numbers = [record[key] for key in (*_NUMBERS, "headdim")]
    for scope in ("static", "loop"):
        numbers += [record[scope]["total"], record[scope]["zeroing"], *record[scope]["opcodes"].values()]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a count is no whole number from 0 up")
    if record["arch"] not in nvrtc.ARCHES or type(record["causal"]) is not bool or not record["limited_by"]:
        raise ValueError("arch, causal or limited_by is none of those accepted")


def stale(stage: Stage) -> str:
    """Why the stage's file does not say what its source compiles to; "" when it does."""
    path = path_of(stage)
    if not path.exists():
        return f"{stage.name}: nothing is recorded"
    if load(path)["source"] != nvrtc.source_hash(stage):
        return f"{stage.name}: the kernel, or a header that it includes, has changed since {path.name} was recorded"
    return ""


def find(documents: Iterable[dict], stage: str, **wanted) -> dict:
    """The record of one instantiation of `stage` (its name). Raises NoData."""
    for data in documents:
        for record in data["instantiations"] if data["stage"] == stage else ():
            if all(record[key] == value for key, value in wanted.items()):
                return record
    asked = " ".join(f"{key}={value}" for key, value in wanted.items())
    raise results.NoData(f"nothing is recorded by tools.sass of {stage} {asked}")


# What a record can be asked for by name: itself, or a family of instructions, in the main loop if "loop:" goes before.
FIELDS = ("registers", "spill", "stack", "shared", "threads", "barriers", "blocks", "warps", "occupancy", "limit")
COUNTS = ("total", "zeroing", *mix.FAMILIES, mix.OTHER)


def value(record: dict, name: str) -> str:
    """As text: value(record, "registers"), "HMMA", "loop:HMMA". Raises KeyError for an unknown name."""
    if name == "shared":
        return f"{(record['static_shared'] + record['dynamic_shared']) / 1024:g} KiB"
    if name == "occupancy":
        return f"{100 * record['occupancy']:.3g} %"
    if name == "limit":
        return " and ".join(record["limited_by"])
    if name in FIELDS:
        return str(record[name])
    loop, _, family = name.rpartition(":")
    if loop not in ("", "loop") or family not in COUNTS:
        raise KeyError(name)
    counted = record["loop" if loop else "static"]
    return f"{(counted if family in ('total', 'zeroing') else mix.families(counted))[family]:,}"
