"""Solution regions: the lines of a kernel that a learner is to write, between two comments.

    # BEGIN SOLUTION key_loop: walk the K/V tiles, rescale what there is, add this tile's share
    ...
    # END SOLUTION

In CUDA files the comments start with //. The name is one word; what follows the colon is the hint for who is stuck.
A file may hold several regions; they do not nest, and no two of a file have the same name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

COMMENT = {".py": "#", ".cu": "//", ".cuh": "//"}


class RegionError(ValueError):
    """A marker that cannot be understood. The message names the file and the line."""


@dataclass(frozen=True)
class Region:
    """begin, end: the lines of the two markers, counted from 1; the solution lies between them."""

    path: Path
    name: str
    hint: str
    begin: int
    end: int


def find_regions(path: str | Path) -> tuple[Region, ...]:
    """The solution regions of a Python or CUDA file, in its order.

    Raises RegionError naming file and line for a region that is unnamed, has no hint, has the name of another one,
    lies in another one, or is not closed; and for an END without a BEGIN.
    """
    path = Path(path)
    if path.suffix not in COMMENT:
        raise RegionError(f"{path} ends in {path.suffix!r}; accepted: {', '.join(COMMENT)}")
    comment = re.escape(COMMENT[path.suffix])
    marker = re.compile(rf"\s*{comment}\s*(BEGIN|END)\s+SOLUTION\b(.*)")
    label = re.compile(r"\s+(\w+)\s*:\s*(\S.*)")

    regions: list[Region] = []
    opened = None  # (name, hint, line)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        found = marker.match(line)
        if found is None:
            continue
        place = f"{path}, line {number}"
        if found[1] == "END":
            if opened is None:
                raise RegionError(f"{place}: END SOLUTION without a BEGIN SOLUTION before it")
            name, hint, begin = opened
            regions.append(Region(path, name, hint, begin, number))
            opened = None
            continue
        if opened is not None:
            raise RegionError(
                f"{place}: BEGIN SOLUTION inside the region {opened[0]!r} of line {opened[2]}; "
                "accepted: an END SOLUTION first"
            )
        named = label.fullmatch(found[2].rstrip())
        if named is None:
            raise RegionError(f"{place}: {line.strip()!r}; accepted: BEGIN SOLUTION name: hint")
        if named[1] in {region.name for region in regions}:
            raise RegionError(f"{place}: a second region {named[1]!r}; accepted: a name of its own")
        opened = (named[1], named[2], number)
    if opened is not None:
        raise RegionError(f"{path}, line {opened[2]}: the region {opened[0]!r} is not closed by END SOLUTION")
    return tuple(regions)
