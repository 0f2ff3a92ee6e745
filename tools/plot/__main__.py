"""Draw every plot of the results files: throughput, time and memory, the ladder, the roofline, v1 against v2.

Each is written as PNG and SVG, named after the plot and the device: docs/plots/throughput-h200.svg. Unless --results
chooses the files, the two pictures of what the emulator does follow, bank-conflicts and fragments, where there is a C++
compiler.

Exit codes: 0 all is drawn; 1 a results file is damaged (the others are drawn all the same), or there is
nothing to draw; 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

from tools import results
from tools.emulator.build import missing
from tools.plot import charts, style


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.plot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--results",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="results files (default: all of docs/results/)",
    )
    p.add_argument(
        "--out",
        type=Path,
        default=results.ROOT / "docs" / "plots",
        metavar="DIR",
        help="default: docs/plots/",
    )
    return p


def draw(files: Sequence[results.Results], out: Path) -> list[Path]:
    """Draw all figures that the files hold data for -> the paths written."""
    written = []
    for sheet in charts.sheets(files):
        for name, chart in charts.CHARTS.items():
            with matplotlib.rc_context(style.SETTINGS):
                fig = chart(sheet)
            if fig is not None:
                written += style.save(fig, out, f"{name}-{results.slug(sheet.device)}")
    return written


def draw_hardware(out: Path) -> list[Path]:
    """Draw what the emulator is asked for -> the paths written; without a compiler nothing, and say so."""
    lacking = missing()
    if lacking:
        print(f"bank-conflicts and fragments are not drawn: {lacking}", file=sys.stderr)
        return []
    from tools.plot import hardware

    return hardware.draw(out)


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    paths = args.results if args.results is not None else results.committed()
    if not paths:
        print(f"no results files in {results.RESULTS_DIR}; `python -m tools.bench` makes one", file=sys.stderr)
        return 1
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        p.error(f"argument --out: {args.out} cannot be made: {problem.strerror}")
    good, bad = results.load_all(paths)
    for problem in bad:
        print(problem, file=sys.stderr)
    try:
        written = draw(good, args.out)
        if args.results is None:
            written += draw_hardware(args.out)
    except KeyboardInterrupt:
        return 130
    for path in written:
        print(path)
    if good and not written:
        print(f"nothing to draw in {', '.join(str(file.path) for file in good)}", file=sys.stderr)
    return 1 if bad or not written else 0


if __name__ == "__main__":
    sys.exit(main())
