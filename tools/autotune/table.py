"""The file that keeps a device's choices: docs/results/autotune/<device>.json.

    {"environment": {...},     of the newest run
     "runs": {run: environment},  of the older runs, by their start time
     "chosen": [{"stage", "headdim", "causal", "tiles", "source", "arch", "tflops", "default", "run"}, ...],
     "dropped": [{"stage", "headdim", "causal", "by": {reason: count}}, ...],
     "lost": [{"stage", "headdim", "causal", "tiles", "why"}, ...],
     "candidates": [{"stage", "headdim", "causal", "tiles", "registers", "tflops": {length: TFLOP/s}}, ...]}

In "chosen", tflops is the harmonic mean over the lengths, default that of the stage's default configuration (null: it
could not be measured), source the hash of the kernel that was measured. "lost" are those that took the GPU with them:
they are not tried again. stages/common/tiles.py reads "chosen" at the first launch.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stages.common.tiles import Tiles
from tools import nvrtc
from tools.autotune.prune import Kept
from tools.autotune.search import Outcome
from tools.autotune.space import Dropped, Part
from tools.results import ResultsError, write_text

_LISTS = ("chosen", "dropped", "lost", "candidates")
_PART = {"stage": str, "headdim": int, "causal": bool}


@dataclass
class Table:
    """One file. Entries are what the JSON holds."""

    path: Path
    environment: dict
    runs: dict[str, dict] = field(default_factory=dict)
    chosen: list[dict] = field(default_factory=list)
    dropped: list[dict] = field(default_factory=list)
    lost: list[dict] = field(default_factory=list)
    candidates: list[dict] = field(default_factory=list)

    def environment_of(self, entry: dict) -> dict:
        return self.runs.get(entry["run"], self.environment)

    def has(self, part: Part) -> bool:
        """Whether there is a choice for the kernel as it is now."""
        source = nvrtc.source_hash(part.stage)
        return any(key_of(entry) == part.key and entry["source"] == source for entry in self.chosen)

    def lost_in(self, part: Part) -> list[Dropped]:
        return [
            Dropped(Tiles(**entry["tiles"]), "lost the GPU", entry["why"])
            for entry in self.lost
            if key_of(entry) == part.key
        ]

    def of(self, part: Part, name: str) -> list[dict]:
        """The entries of a part in the list `name`."""
        return [entry for entry in getattr(self, name) if key_of(entry) == part.key]

    def add(self, part: Part, arch: str, kept: Mapping[Tiles, Kept], outcome: Outcome, dropped: list[Dropped]) -> None:
        """Put a finished part in the place of what was there of it, and write the file. The first of the ranking is
        the choice."""
        best, head = outcome.ranking[0], dict(zip(_PART, part.key))
        default = outcome.score(part.default) if part.default in outcome.ranking else None
        self._forget(part, ("chosen", "dropped", "candidates"))
        self.chosen.append(
            head
            | {"tiles": dataclasses.asdict(best), "source": nvrtc.source_hash(part.stage), "arch": arch}
            | {"tflops": _six_digits(outcome.score(best)), "default": default and _six_digits(default)}
            | {"run": self.environment["date"]}
        )
        self.dropped.append(head | {"by": dict(sorted(Counter(one.by for one in dropped).items()))})
        for tiles in sorted(outcome.tflops, key=lambda t: (len(outcome.tflops[t]), outcome.score(t)), reverse=True):
            lengths = {str(seqlen): _six_digits(found) for seqlen, found in sorted(outcome.tflops[tiles].items())}
            measured = {"registers": kept[tiles].registers, "tflops": lengths}
            self.candidates.append(head | {"tiles": dataclasses.asdict(tiles)} | measured)
        self.runs[self.environment["date"]] = self.environment
        self.save()

    def add_lost(self, part: Part, tiles: Tiles, why: str) -> None:
        """Remember a configuration that took the GPU with it, and write the file."""
        self.lost.append(dict(zip(_PART, part.key)) | {"tiles": dataclasses.asdict(tiles), "why": why})
        self.save()

    def forget(self, part: Part) -> None:
        """Start a part over; written with the next part that is finished."""
        self._forget(part, _LISTS)

    def _forget(self, part: Part, lists) -> None:
        for name in lists:
            setattr(self, name, [entry for entry in getattr(self, name) if key_of(entry) != part.key])

    def save(self) -> None:
        """Whole or not at all, an entry a line."""
        used = {entry["run"] for entry in self.chosen} - {self.environment["date"]}
        document = {
            "environment": self.environment,
            "runs": {run: environment for run, environment in sorted(self.runs.items()) if run in used},
        }
        text = json.dumps(document, indent=1, allow_nan=False)[:-2]
        for name in _LISTS:
            entries = sorted(getattr(self, name), key=key_of)
            lines = ",\n".join(json.dumps(entry, allow_nan=False) for entry in entries)
            text += f',\n "{name}": [\n{lines}\n]' if entries else f',\n "{name}": []'
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, f"{text}\n}}\n")


def key_of(entry: dict) -> tuple[str, int, bool]:
    return entry["stage"], entry["headdim"], entry["causal"]


def open_table(path: Path, environment: dict) -> Table:
    """What is there already, for a run with `environment` to go on with. Raises ResultsError for a file that is damaged
    or of another device."""
    if not path.exists():
        return Table(path, environment)
    there = load(path)
    if there.environment["device"] != environment["device"]:
        raise ResultsError(f"{path}: is of {there.environment['device']}, and this is {environment['device']}")
    there.runs.setdefault(there.environment["date"], there.environment)
    there.environment = environment
    return there


def load(path: Path) -> Table:
    """Read and check a file. Raises ResultsError naming it."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        for key in ("device", "date", "compute_capability"):
            if not isinstance(data["environment"][key], str):
                raise ValueError(f"environment's {key} is {data['environment'][key]!r}; accepted: text")
        for name in _LISTS:
            for entry in data[name]:
                _check(entry, name)
        keys = [key_of(entry) for entry in data["chosen"]]
        if len(keys) != len(set(keys)):
            raise ValueError("chosen has two entries for one part")
        return Table(Path(path), data["environment"], data["runs"], *(data[name] for name in _LISTS))
    except OSError as problem:
        raise ResultsError(f"{path}: cannot be read: {problem.strerror}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        raise ResultsError(f"{path}: damaged: {type(problem).__name__}: {problem}") from None


def _check(entry: dict, name: str) -> None:
    for key, kind in _PART.items():
        if type(entry[key]) is not kind:
            raise ValueError(f"{name}: {key} is {entry[key]!r}; accepted: {kind.__name__}")
    if name == "dropped":
        if not all(type(count) is int and count > 0 for count in entry["by"].values()):
            raise ValueError(f"dropped: by is {entry['by']!r}; accepted: counts above 0")
        return
    for key, value in dataclasses.asdict(Tiles(**entry["tiles"])).items():
        kind = bool if key == "q_in_registers" else int
        if type(value) is not kind or (kind is int and value < 1):
            raise ValueError(f"{name}: tiles' {key} is {value!r}; accepted: {kind.__name__}, 1 or more")
    if name == "chosen":
        for key in ("source", "arch", "run"):
            if not isinstance(entry[key], str):
                raise ValueError(f"chosen: {key} is {entry[key]!r}; accepted: text")
    rates = {"chosen": lambda: [entry["tflops"], entry["default"] or 1.0]}
    rates["candidates"] = lambda: [*entry["tflops"].values(), float(entry["registers"])]
    if not all(type(rate) is float and 0 < rate < float("inf") for rate in rates.get(name, list)()):
        raise ValueError(f"{name}: tflops or registers are no numbers above 0")


def _six_digits(x: float) -> float:
    return float(f"{x:.6g}")
