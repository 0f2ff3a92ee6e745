"""A kernel of a few lines, written in the lesson and run in the emulator: what a first look at CUDA needs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from stages import Stage
from tools.emulator import Array, CompileError, KernelError, Report, emulate, launch, missing
from tools.lesson.live import emulated
from tools.lesson.pieces import LessonError
from tools.lesson.shown import Shown, table

# The line directive makes the first line of the lesson's text kernel.cu:1, in findings and in counters.
HEAD = '#include "ptx.cuh"\nusing namespace ptx;\n#line 1 "kernel.cu"\n'
MOST_FINDINGS = 4


class Ran(Shown):
    """What became of a tiny kernel: findings, or else counters line by line. report: all that the emulator says; None
    if the kernel does not compile."""

    def __init__(self, markdown: str, report: Report | None) -> None:
        super().__init__(markdown)
        self.report = report

    @property
    def clean(self) -> bool:
        """It compiled, and nothing was found."""
        return self.report is not None and not self.report.findings


def tiny(
    source: str, *, grid: int | Sequence[int] = 1, block: int = 32, shared_bytes: int = 0, asynchronous: str = "late",
    schedule: str = "forward", **arrays: np.ndarray,
) -> Ran:  # fmt: skip
    """Run the one `__global__` function of `source`, CUDA C++ that knows the functions of stages/common/ptx.cuh.

    grid, block: how many blocks, and threads in each. arrays: a NumPy array for each of the kernel's parameters, by
    name; those that are not `const` there are written in place. asynchronous, schedule: see tools.emulator.Settings.

    Raises LessonError where source and arrays do not fit together, or there is no C++ compiler.
    """
    if missing():
        raise LessonError(missing())
    name, parameters = _signature(source)
    names = [parameter for parameter, _ in parameters]
    if sorted(names) != sorted(arrays):
        raise LessonError(f"arrays are {', '.join(arrays) or 'none'}; the kernel takes {', '.join(names) or 'none'}")
    given = [_array(parameter, arrays[parameter], writable) for parameter, writable in parameters]
    grid = (grid,) if isinstance(grid, int) else tuple(grid)
    try:
        with emulate(raises=False, asynchronous=asynchronous, schedule=schedule):
            report = launch(HEAD + source.lstrip("\n"), name, given, grid=grid, block=block, shared_bytes=shared_bytes)
    except CompileError as error:
        return Ran(f"does not compile:\n\n```\n{_plain(str(error))[:1500]}\n```", None)
    except KernelError as error:
        report = error.report
    return Ran(_findings(report, source.lstrip("\n")) or _counters(report, source.lstrip("\n")), report)


def _signature(source: str) -> tuple[str, list[tuple[str, bool]]]:
    """The kernel's name, and of each parameter the name and whether the kernel may write there."""
    kernels = re.findall(r"__global__\s+void\s+(\w+)\s*\(([^)]*)\)", source)
    if len(kernels) != 1:
        raise LessonError(f"source has {len(kernels)} functions `__global__ void name(...)`; accepted: one")
    name, inside = kernels[0]
    parameters = []
    for text in filter(None, (part.strip() for part in inside.split(","))):
        found = re.fullmatch(r"(const\s+)?\w+\s*\*\s*(\w+)", text)
        if not found:
            raise LessonError(f"a parameter of {name} is {text!r}; accepted: pointers, `const u16* X` or `float* y`")
        parameters.append((found[2], not found[1]))
    return name, parameters


def _array(name: str, array: np.ndarray, writable: bool) -> Array:
    if not isinstance(array, np.ndarray) or not array.flags.c_contiguous:
        raise LessonError(f"{name} is {type(array).__name__}; accepted: a NumPy array whose elements lie in order")
    bits = array.view(np.uint16) if array.dtype == np.float16 else array
    return Array(name, bits, writable=writable)


def _plain(text: str) -> str:
    """What a compiler says, without the folder that it was called in, and without the lines that it quotes: it looks
    for those in the file, where HEAD has moved them."""
    said = [line for line in text.splitlines() if not re.match(r"\s*\d* \|", line)]
    return re.sub(r"/[^\s:]*/", "", "\n".join(said))


def _findings(report: Report, source: str) -> str:
    """What was found, and the lines that it names: the reader's text has no numbers at its margin."""
    said = list(dict.fromkeys(f"{finding.kind}: {finding.message}" for finding in report.findings))
    more = [f"… and {len(said) - MOST_FINDINGS} more"] if len(said) > MOST_FINDINGS else []
    shown = said[:MOST_FINDINGS]
    lines = source.splitlines()
    named = sorted(
        {int(n) for line in shown for n in re.findall(r"kernel\.cu:(\d+)", line) if 0 < int(n) <= len(lines)}
    )
    quoted = [f"kernel.cu:{n} is `{_cut(lines[n - 1])}`" for n in named]
    return "\n".join(f"- {line}" for line in shown + more + quoted)


def by_line(stage: str | Stage, *ops: str, **fields) -> Shown:
    """Counters of a CUDA stage, line by line, as the emulator runs it. ops: of which instructions (tools.emulator.Site;
    default: all); fields: of reference.Case."""
    run = emulated(stage, **fields)
    report = dataclasses.replace(run.report, sites=tuple(s for s in run.report.sites if not ops or s.op in ops))
    return Shown(f"{run.label}, {run.case}:\n\n{_counters(report, run.source)}")


WIDE = 72  # characters of a line in a table


def _cut(line: str) -> str:
    line = line.partition("//")[0].strip().replace("|", "\\|")
    return line if len(line) <= WIDE else line[: WIDE - 2] + " …"


def _counters(report: Report, source: str) -> str:
    lines = source.splitlines()
    sites = sorted((site for site in report.sites if site.file == "kernel.cu"), key=lambda site: site.line)
    shared, moved = any(site.passes for site in sites), any(site.bytes for site in sites)
    header = ["line", "instruction", "warp instructions"]
    header += ["passes", "wavefronts"] if shared else []
    header += ["bytes of global memory", "in sectors"] if moved else []
    rows = []
    for site in sites:
        row = [f"{site.line}: `{_cut(lines[site.line - 1])}`", site.op, site.instructions]
        row += [site.passes or "–", site.wavefronts or "–"] if shared else []
        row += [site.bytes or "–", site.sectors or "–"] if moved else []
        rows.append(row)
    return table(header, rows, text_columns=2).markdown if rows else "ran; it called nothing that is counted"
