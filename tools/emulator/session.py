"""How launches run: when asynchronous copies complete, in which order threads run, what is watched."""

from __future__ import annotations

import contextlib
import contextvars
from dataclasses import dataclass, field

from tools.emulator.report import Report

SCHEDULES = ("forward", "reverse", "random", "interleave")
ASYNCHRONOUS = ("late", "early")


@dataclass(frozen=True)
class Settings:
    """asynchronous: "late", copies land at the wait that guarantees them, or "early", when issued.
    schedule: the order in which threads run: "forward", "reverse", "random" (by `seed`) or "interleave".
    races, counters: whether accesses are checked for order, and counted.
    trace: of how many instructions a line the shared-memory addresses are kept, in Report.traces.
    limit_s: CPU seconds after which a kernel counts as hanging.
    """

    asynchronous: str = "late"
    schedule: str = "forward"
    seed: int = 1
    races: bool = True
    counters: bool = True
    trace: int = 0
    limit_s: float = 60.0

    def __post_init__(self) -> None:
        for name, value, accepted in (
            ("asynchronous", self.asynchronous, ASYNCHRONOUS),
            ("schedule", self.schedule, SCHEDULES),
        ):
            if value not in accepted:
                raise ValueError(f"{name} is {value!r}; accepted: {', '.join(accepted)}")
        if self.trace < 0 or (self.trace and not self.counters):
            raise ValueError(f"trace is {self.trace!r}; accepted: 0, or with counters more")
        if not self.limit_s > 0:
            raise ValueError(f"limit_s is {self.limit_s!r}; accepted: seconds above 0")


@dataclass
class Session:
    """settings, and the reports of the launches made under them, in order; raises: whether findings raise."""

    settings: Settings = field(default_factory=Settings)
    raises: bool = True
    reports: list[Report] = field(default_factory=list)


_current: contextvars.ContextVar[Session | None] = contextvars.ContextVar("session", default=None)


def current() -> Session:
    """The innermost session; outside of any, one with the defaults that nobody keeps."""
    return _current.get() or Session()


@contextlib.contextmanager
def emulate(*, raises: bool = True, **settings):
    """Launches within run under these `settings` (see Settings) and leave their reports in the session.

    raises: False: findings are only reported, not raised.
    """
    session = Session(Settings(**settings), raises)
    token = _current.set(session)
    try:
        yield session
    finally:
        _current.reset(token)
