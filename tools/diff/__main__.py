"""What changed in the kernel between two stages, why, and what it bought.

    python -m tools.diff                      every stage: its parent, the size of the step, its idea
    python -m tools.diff s21                  a stage against its parent
    python -m tools.diff s20 s21              any two stages
    python -m tools.diff s21 my/kernel.cu     a stage against a kernel of your own
    python -m tools.diff s20 s21 --html d.html   the same as a page that needs nothing else

Above each change stands its reason (▸): the hint of the solution region in which it lies, or what new comments there
say; between stages that are several steps apart, the stage that made it. Markers, the header's first line and
indentation are no change. What it bought is read from docs/results: nothing is measured, and what is not recorded is
said to be missing. A difference in time within the spread of the samples is none.

Exit codes: 0; 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tools.diff.compare import CONTEXT, compute
from tools.diff.source import SourceError, source

PIPE = 120  # columns of what goes to a file or a pipe


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """`| head` has seen enough: no failure."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0)


def context(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"is {text!r}; accepted: 0 or more")
    return int(text)


def output(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise argparse.ArgumentTypeError(f"is {text!r}; accepted: a file in a folder that is there")
    return path


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.diff", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("kernels", metavar="KERNEL", nargs="*", help="a stage (s20, 20, s20_mma) or a kernel file")
    views = p.add_mutually_exclusive_group()
    views.add_argument("--unified", dest="view", action="store_const", const="unified", help="one column")
    views.add_argument("--side-by-side", dest="view", action="store_const", const="beside",
                       help="two columns (default: on terminals of 160 columns or more)")  # fmt: skip
    views.add_argument("--stat", dest="view", action="store_const", const="stat", help="only the size of the diff")
    p.add_argument("--context", type=context, default=CONTEXT, metavar="N",
                   help="lines shown around each change (default: %(default)s)")  # fmt: skip
    p.add_argument("--html", type=output, metavar="FILE", help="write it as a page, and show nothing here")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    if len(args.kernels) > 2:
        p.error(f"argument KERNEL: {len(args.kernels)} given; accepted: none, one or two")
    if args.html and (not args.kernels or args.view == "stat"):
        p.error("argument --html: takes one or two kernels, and no --stat")
    is_sized = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = _Console(highlight=False, width=None if is_sized else PIPE)
    try:
        if not args.kernels:
            from tools.diff import show, steps

            console.print(show.ladder(steps.all_steps(), console.width))
            return 0
        first, second = _both(p, args.kernels)
        return _diff(args, first, second, console)
    except SourceError as problem:
        p.error(f"argument KERNEL: {problem}")
    except BrokenPipeError:  # from a rich that does not ask the console
        console.on_broken_pipe()
    except KeyboardInterrupt:
        return 130


def _both(p: argparse.ArgumentParser, kernels: Sequence[str]) -> tuple[str, str]:
    if len(kernels) == 2:
        return kernels[0], kernels[1]
    alone = source(kernels[0]).stage
    if alone is None:
        p.error(f"argument KERNEL: {kernels[0]} is a file; accepted: two, such as s21 {kernels[0]}")
    if alone.parent is None:
        p.error(f"argument KERNEL: {alone.name} has no parent; accepted: two stages")
    return alone.parent, alone.name


def _diff(args: argparse.Namespace, first: str, second: str, console) -> int:
    from tools.diff import show

    diff = compute(first, second, args.context)
    if args.view == "stat":
        console.print(show.stat(diff))
        return 0
    from tools.diff.gains import bought

    gains = bought(first, second)
    if args.html:
        from tools.diff.html import page
        from tools.results import write_text

        write_text(args.html, page(diff, gains, unified=args.view == "unified"))
        print(f"{diff.old.label} → {diff.new.label}: {args.html}", file=sys.stderr)
        return 0
    show.show(console, diff, gains, {"beside": True, "unified": False}.get(args.view))
    return 0


if __name__ == "__main__":
    sys.exit(main())
