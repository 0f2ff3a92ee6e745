"""The numbered stages, in order.

>>> from stages import STAGES, get
>>> [stage.name for stage in STAGES][:2]
['s01_naive', 's02_online_softmax']
>>> get("s01").title
'Naive attention'
>>> out, lse = get("s01").attention(q, k, v, causal=True)  # doctest: +SKIP
"""

from __future__ import annotations

import difflib

from stages.common.record import Capability, Stage, StageUnavailable, Unsupported, discover

__all__ = ["STAGES", "Capability", "Stage", "StageUnavailable", "Unsupported", "get"]

_BY_NAME = discover()

STAGES: tuple[Stage, ...] = tuple(_BY_NAME.values())


def get(name: str | int) -> Stage:
    """The stage called `name`: "s12_triton_v2", "s12", "12" or 12.

    Raises KeyError that lists the stages there are.
    """
    wanted = f"s{name:02d}" if isinstance(name, int) else str(name).strip()
    if wanted.isdigit():
        wanted = f"s{int(wanted):02d}"
    for stage in STAGES:
        if wanted in (stage.name, stage.short):
            return stage
    close = difflib.get_close_matches(wanted, _BY_NAME, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise UnknownStage(f"stage is {name!r}{hint}; accepted: {', '.join(_BY_NAME)}, or their numbers")


class UnknownStage(KeyError):
    """No such stage; a KeyError whose text prints as written."""

    def __str__(self) -> str:
        return self.args[0]
