"""Runs the CUDA stages' kernels on the CPU, instruction by instruction, and says what a profiler and a race detector
would.

`stages.common.cuda.launch` comes here where there is no GPU, so a stage is called as ever; `emulate` chooses how its
launches run, and keeps their reports:

    with emulate(asynchronous="early", schedule="reverse", seed=1) as session:
        out, lse = get("s20").attention(q, k, v)
    session.reports[0].sites  # counters of every line

A bug that the kernel's result may hide (a race, an access out of bounds, a deadlock, ...) raises KernelError, whose
text names lines and threads. The kernel runs in a process of its own: whatever it does, this one goes on.
"""

from tools.emulator.build import CompileError, missing
from tools.emulator.process import Array, Struct, launch
from tools.emulator.report import Finding, KernelError, Pass, Report, Site, Trace
from tools.emulator.session import SCHEDULES, Session, Settings, emulate

__all__ = [
    "SCHEDULES",
    "Array",
    "CompileError",
    "Finding",
    "KernelError",
    "Pass",
    "Report",
    "Session",
    "Settings",
    "Site",
    "Struct",
    "Trace",
    "emulate",
    "launch",
    "missing",
]
