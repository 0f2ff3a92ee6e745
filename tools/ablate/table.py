"""What a recorded ablation says of each toggle: how much faster the kernel is with it, if that exceeds the spread."""

from __future__ import annotations

from collections.abc import Sequence

from tools import results
from tools.ablate.toggles import TOGGLES
from tools.ablate.variants import COPY, UNCHANGED
from tools.bench.shapes import Shape
from tools.results import NoData

NONE = "none"
IDEAS = {toggle.name: toggle.idea for toggle in TOGGLES} | {COPY: "nothing: a second copy of the kernel"}


def load(path) -> results.Results:
    """A file of this tool. Raises ResultsError naming the file and what is wrong."""
    file = results.load(path)
    if not isinstance(file.environment.get("stage"), str):
        raise results.ResultsError(f"{path}: environment has no stage: no file of tools.ablate")
    return file


def gain(unchanged: dict, variant: dict) -> float:
    """The change of throughput, as a fraction: 0.02 is 2 % faster than unchanged."""
    return unchanged["ms_median"] / variant["ms_median"] - 1


def margin(unchanged: dict, variant: dict) -> float:
    """What a difference has to exceed to be one: the larger of the two spreads, as a fraction of the time.

    A record's spread: its 90th percentile less its 10th, over its median.
    """
    return max(results.spread(unchanged), results.spread(variant))


def cell(unchanged: dict, variant: dict) -> str:
    """ "+2.1 %", "none" within the spread, or "failed"."""
    if not results.is_timed(variant):
        return "failed"
    change = gain(unchanged, variant)
    return f"{100 * change:+.1f} %" if abs(change) > margin(unchanged, variant) else NONE


def choose(files: Sequence[results.Results], device: str = "") -> results.Results:
    """The newest file of the one device that answers. Raises NoData."""
    found = [file for file in files if device.lower() in file.environment["device"].lower()]
    names = sorted({file.environment["device"] for file in found})
    if len(names) != 1:
        which = f"{len(names)} devices answer: {', '.join(names)}; say which, by device=" if names else "no ablation"
        raise NoData(f"{which}{f' of device {device!r}' if device and not names else ''}")
    return max(found, key=lambda file: file.environment["date"])


def rows(records: Sequence[dict]) -> tuple[list[str], list[list[str]]]:
    """(header, rows): one row a variant in the order of the file, one column a shape; the last row is the spread.

    Raises NoData when a shape has no timed record of the unchanged kernel.
    """
    shapes = list(dict.fromkeys(Shape.of(record) for record in records))
    by_shape = {shape: {r["name"]: r for r in records if Shape.of(r) == shape} for shape in shapes}
    for shape, there in by_shape.items():
        if UNCHANGED not in there or not results.is_timed(there[UNCHANGED]):
            raise NoData(f"the unchanged kernel was not timed at {shape}")
    header = ["toggle", "what it does", *(shape.short for shape in shapes)]
    body = []
    for name in dict.fromkeys(record["name"] for record in records):
        if name != UNCHANGED:
            idea = IDEAS.get(name) or "all of these together"
            cells = (cell(there[UNCHANGED], there[name]) if name in there else "–" for there in by_shape.values())
            body.append([name, idea, *cells])
    spreads = (f"{100 * results.spread(there[UNCHANGED]):.1f} %" for there in by_shape.values())
    body.append([UNCHANGED, "the spread of the kernel as it is", *spreads])
    return header, body
