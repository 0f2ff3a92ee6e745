"""A command run with what a grading container has: half a processor, 768 MB, 10 minutes. No container is needed.

The processor is shared out by stopping and continuing the command and all that it has started, on one core; memory is
the sum of what each process holds for itself and its share of what it has in common with others, looked at often.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tools.assignment import descendants

PERIOD_S = 0.1
CPU, MEMORY_MB, MINUTES = 0.5, 768, 10


@dataclass(frozen=True)
class Used:
    """code: the exit status, or None where it was ended; why: "", "time" or "memory"; seconds: on the clock;
    cpu_seconds: of computing, which a crowded machine does not change; peak_mb: the most memory."""

    code: int | None
    why: str
    seconds: float
    cpu_seconds: float
    peak_mb: float


def run(command: Sequence[str], *, cpu=CPU, memory_mb=MEMORY_MB, minutes=MINUTES, **options) -> Used:
    """Run `command` within the limits. options: of subprocess.Popen."""
    start, peak, before = time.monotonic(), 0.0, _computed()
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    pin = ["taskset", "-c", str(core)] if core is not None and _has("taskset") else []
    process = subprocess.Popen([*pin, *command], **options)
    try:
        while process.poll() is None:
            family = [process.pid, *descendants.descendants(process.pid)]
            # Whoever watches is stopped first and goes on last: it never sees the watched one standing still.
            for pid in family:
                _send(pid, signal.SIGSTOP)
            peak = max(peak, sum(map(_held, family)) / 1e6)
            time.sleep(PERIOD_S * (1 - cpu))
            for pid in reversed(family):
                _send(pid, signal.SIGCONT)
            why = "memory" if peak > memory_mb else "time" if time.monotonic() - start > minutes * 60 else ""
            if why:
                return Used(None, why, time.monotonic() - start, _computed() - before, peak)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PERIOD_S * cpu)
        return Used(process.returncode, "", time.monotonic() - start, _computed() - before, peak)
    finally:
        for pid in [process.pid, *descendants.descendants(process.pid)] if process.poll() is None else []:
            _send(pid, signal.SIGKILL)
        process.wait()


def _computed() -> float:
    """Seconds of computing of what this process has started and seen the end of."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _has(program: str) -> bool:
    return any(os.access(os.path.join(p, program), os.X_OK) for p in os.environ.get("PATH", "").split(os.pathsep))


def _send(pid: int, what: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, what)


def _held(pid: int) -> int:
    """Bytes; 0 for a process that is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/smaps_rollup") as rollup:
        for line in rollup:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
