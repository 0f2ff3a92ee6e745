"""Which lanes meet in which bank: one instruction over shared memory, pass by pass, as the emulator saw it executed.

    python -m tools.emulator banks                        s20 and s21: without and with swizzle
    python -m tools.emulator banks s20 --of V             the transposed loads of V
    python -m tools.emulator banks my/kernel.cu --like s20
    python -m tools.emulator banks s20 --line 162         whatever that line of kernel.cu does

Shared memory has 32 banks of 4 bytes; word w is in bank w % 32. A pass serves up to 128 bytes, for ldmatrix one 8 by 8
matrix: eight lanes, 16 bytes each. Where lanes want different words of one bank, the pass takes a wavefront for each.

Exit codes: 0 shown; 1 a kernel has no such access, or does not compile, or was stopped by a finding; 2 wrong arguments;
3 no C++ compiler; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.columns import Columns
from rich.console import Console
from rich.text import Text

from reference import Case
from stages.common.record import Stage
from tools.emulator.build import CompileError
from tools.emulator.report import Pass, Trace
from tools.emulator.run import run
from tools.emulator.session import Settings

BANKS, WORD = 32, 4
# The accesses that a picture is asked of by name: op, and what the line that makes it mentions, one of it at least.
KNOWN = {
    "Q": ("ldmatrix", ("Q_smem", "Q_frag")),
    "K": ("ldmatrix", ("K_smem", "K_frag")),
    "V": ("ldmatrix.trans", ("V_smem", "V_frag")),
    "O": ("st.shared", ("",)),
}
COLOURS = ("blue", "red", "green", "magenta")  # of the passes


class NoAccess(LookupError):
    """A kernel makes no access as asked for; the text says which there are."""


@dataclass(frozen=True)
class Picture:
    """One executed instruction of one kernel. title: of its stage; text: its line of the source."""

    label: str
    title: str
    trace: Trace
    text: str
    headdim: int

    @property
    def wavefronts(self) -> int:
        return sum(one.wavefronts for one in self.trace.passes)

    def cells(self, one: Pass) -> list[tuple[int, list[int]]]:
        """(lane, banks of its words) of a pass."""
        return [(lane, [word % BANKS for word in self.words(lane)]) for lane in one.lanes]

    def words(self, lane: int) -> range:
        first = self.trace.addresses[lane] // WORD
        return range(first, first + max(1, self.trace.bytes_per_lane // WORD))

    def wanted(self, one: Pass) -> list[int]:
        """How many different words of each bank a pass is asked for."""
        words = {word for lane in one.lanes for word in self.words(lane)}
        return [sum(word % BANKS == bank for word in words) for bank in range(BANKS)]


def find(traces: Sequence[Trace], source: str, of: str = "K", line: int | None = None) -> Trace:
    """The first execution of the access that `of` names in KNOWN, or of what is on `line`.

    Raises NoAccess, which lists the lines that access shared memory.
    """
    lines = source.splitlines()
    op, names = KNOWN[of]
    for trace in traces:
        known = trace.op == op and any(name in lines[trace.line - 1] for name in names)
        if known if line is None else trace.line == line:
            return trace
    asked = f"line {line} makes no access" if line is not None else f"no {op} of {of} is made, no access"
    there = ", ".join(f"{line} ({op})" for line, op in sorted({(t.line, t.op) for t in traces}))
    raise NoAccess(f"{asked} to shared memory; --line accepts: {there or 'none'}")


def picture(label: str, stage: Stage, headdim: int, dtype: str, of: str = "K", line: int | None = None) -> Picture:
    """Run the stage on one tile of queries and of keys and take the access from there.

    Raises NoAccess, or CompileError for a kernel that does not compile.
    """
    rows = stage.tiles.get("Br", 64), stage.tiles.get("Bc", 64)
    case = Case(dtype=dtype, headdim=headdim, seqlen_q=rows[0], seqlen_k=rows[1], nheads=1, nheads_k=1)
    done = run(label, stage, case, Settings(races=False, trace=1))
    traces = sorted(done.report.traces, key=lambda trace: trace.line)
    try:
        trace = find(traces, done.source, of, line)
    except NoAccess as nothing:
        found = "".join(f"\n{finding}" for finding in done.report.findings)
        raise NoAccess(f"{label}: {nothing}{found}") from None
    return Picture(label, stage.title, trace, done.source.splitlines()[trace.line - 1].strip(), headdim)


def pictures(chosen: Sequence[tuple[str, Stage]], headdim: int, dtype: str, of: str, line: int | None) -> list[Picture]:
    return [picture(label, stage, headdim, dtype, of, line) for label, stage in chosen]


def panel(made: Picture) -> Text:
    """A row a lane, a column a bank; a lane's words carry the last digit of its number."""
    trace = made.trace
    text = Text(f"{made.label}, kernel.cu:{trace.line}, {trace.op}\n", style="bold")
    text.append(f"block {trace.block}, warp {trace.warp}, head dim {made.headdim}\n", style="dim not bold")
    text.append("lane  " + "".join(f"{bank:<4}" for bank in range(0, BANKS, 4)) + " bank\n", style="dim not bold")
    for i, one in enumerate(trace.passes):
        style = f"not bold white on {COLOURS[i % len(COLOURS)]}"
        for lane, banks in made.cells(one):
            text.append(f"{lane:>4}  ", style="dim not bold")
            for bank in range(BANKS):
                text.append(*((str(lane % 10), style) if bank in banks else ("·", "dim not bold")))
            text.append("\n")
        ways = f"      pass {i}: {one.wavefronts} wavefront{'s' if one.wavefronts > 1 else ''}"
        text.append(ways + (f", {one.wavefronts} ways\n" if one.wavefronts > 1 else "\n"))
    text.append(f"      {made.wavefronts} of them in all; without conflicts {len(trace.passes)}")
    return text


def parser() -> argparse.ArgumentParser:
    from tools.emulator.__main__ import add_kernels, positive

    p = argparse.ArgumentParser(
        prog="python -m tools.emulator banks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_kernels(p, nargs="*", default=["s20", "s21"])
    p.add_argument("--of", choices=tuple(KNOWN), default="K", help="loads of Q, K or V, or stores of O (default: K)")
    p.add_argument("--line", type=positive, metavar="N", help="what that line of kernel.cu does, instead")
    p.add_argument("--plot", type=Path, metavar="DIR", help="draw it there: bank-conflicts.png and .svg")
    return p


def main(argv: Sequence[str]) -> int:
    from tools.emulator.__main__ import DTYPES, NO_COMPILER, console, kernels, lacks_compiler

    p = parser()
    args = p.parse_args(argv)
    if args.plot and not args.plot.is_dir():
        p.error(f"argument --plot: {args.plot} is no folder")
    chosen = kernels(p, args)
    if lacks_compiler():
        return NO_COMPILER
    try:
        made = pictures(chosen, args.headdim, DTYPES[args.dtype], args.of, args.line)
    except (CompileError, NoAccess) as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    show(console(), made)
    if args.plot:
        from tools.plot.hardware import draw_banks

        for path in draw_banks(args.plot, made):
            print(path)
    return 0


def show(console: Console, made: Sequence[Picture]) -> None:
    console.print(Columns([panel(one) for one in made], padding=(0, 4)))
