"""Two kernels compared: what changed, why, and what it bought.

>>> from tools.diff import bought, compute
>>> diff = compute("s20", "s21")
>>> diff.size.written, len(diff.hunks) > 0
(1, True)
>>> gains = bought("s20", "s21")
"""

from __future__ import annotations

from tools.diff.compare import Diff, Size, compute
from tools.diff.gains import Gain, Recorded, bought
from tools.diff.html import bought_to_html, page, styles, to_html
from tools.diff.hunks import Change, Hunk, Why
from tools.diff.rows import Row
from tools.diff.source import Line, Source, SourceError
from tools.diff.steps import LARGER, LIMIT, Step, all_steps

__all__ = [
    "LARGER", "LIMIT", "Change", "Diff", "Gain", "Hunk", "Line", "Recorded", "Row", "Size", "Source", "SourceError",
    "Step", "Why", "all_steps", "bought", "bought_to_html", "compute", "page", "styles", "to_html",
]  # fmt: skip
