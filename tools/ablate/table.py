"""What a recorded ablation says of each toggle: how much faster the kernel is with it, if that can be told."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from tools import results
from tools.ablate.toggles import TOGGLES
from tools.ablate.variants import COPY, UNCHANGED
from tools.bench.shapes import Shape
from tools.results import NoData

NONE = "none"
RESOLUTION = 0.002  # twice what two copies of one kernel were seen to differ by
IDEAS = {toggle.name: toggle.idea for toggle in TOGGLES} | {COPY: "nothing: a second copy of the kernel"}


def load(path) -> results.Results:
    """A file of this tool. Raises ResultsError naming the file and what is wrong."""
    file = results.load(path)
    if not isinstance(file.environment.get("stage"), str):
        raise results.ResultsError(f"{path}: environment has no stage: no file of tools.ablate")
    return file


def ratios(unchanged: dict, variant: dict) -> list[float]:
    """How many times the unchanged kernel's throughput the variant has, round by round.

    A GPU's clock moves by several percent from second to second, and by hardly anything within a round, in which every
    variant is sampled once. Raises NoData when the rounds do not pair.
    """
    pairs = unchanged["ms_samples"], variant["ms_samples"]
    if len(pairs[0]) != len(pairs[1]):
        raise NoData(f"{variant['name']} has {len(pairs[1])} samples, the unchanged kernel {len(pairs[0])}")
    return [theirs / ours for theirs, ours in zip(*pairs)]


def gain(unchanged: dict, variant: dict) -> float:
    """The change of throughput, as a fraction: 0.02 is 2 % faster than unchanged. The median of the rounds."""
    return statistics.median(ratios(unchanged, variant)) - 1


def interval(unchanged: dict, variant: dict) -> tuple[float, float]:
    """Where the true median change lies, 99 times of 100, whatever the samples' distribution: between two of the rounds
    in order, with ranks between which a fair coin's heads lie that often."""
    ordered = sorted(ratios(unchanged, variant))
    low = max(0, math.floor(len(ordered) / 2 - 2.576 * math.sqrt(len(ordered)) / 2))
    return ordered[low] - 1, ordered[-1 - low] - 1


def cell(unchanged: dict, variant: dict) -> str:
    """ "+2.1 %"; "none" for less than RESOLUTION, or where the interval does not tell faster from slower; "failed"."""
    if not results.is_timed(variant):
        return "failed"
    change = gain(unchanged, variant)
    low, high = interval(unchanged, variant)
    return f"{100 * change:+.1f} %" if abs(change) >= RESOLUTION and (low > 0 or high < 0) else NONE


def choose(files: Sequence[results.Results], device: str = "") -> results.Results:
    """The newest file of the one device that answers. Raises NoData."""
    found = [file for file in files if device.lower() in file.environment["device"].lower()]
    names = sorted({file.environment["device"] for file in found})
    if len(names) != 1:
        which = f"{len(names)} devices answer: {', '.join(names)}; say which, by device=" if names else "no ablation"
        raise NoData(f"{which}{f' of device {device!r}' if device and not names else ''}")
    return max(found, key=lambda file: file.environment["date"])


def rows(records: Sequence[dict]) -> tuple[list[str], list[list[str]]]:
    """(header, rows): one row a variant in the order of the file, one column a shape.

    The last row is by how much the unchanged kernel's own samples differ, from the 10th percentile to the 90th.

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
    body.append([UNCHANGED, "how far its samples lie apart", *spreads])
    return header, body
