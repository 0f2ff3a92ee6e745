"""Draw every plot of the results files: throughput, time and memory, the ladder, the roofline, v1 against v2.

Each is written as PNG and SVG, named after the plot and the device: docs/plots/throughput-h200.svg. Two devices and
more also get a picture side by side, devices.svg. Unless --results chooses the files, these are

  docs/results/    what the documentation quotes; drawn into docs/plots/, with the pictures of ideas that the
                   documentation shows: those that ask the emulator need a C++ compiler;
  bench-results/   what `make bench` has measured here, if it has; drawn into build/plots/, beside recorded devices.

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
from tools.plot import charts, devices, style

PLOTS = results.ROOT / "docs" / "plots"
OWN_RESULTS = results.ROOT / "bench-results"  # where tools.bench writes unless told otherwise
OWN_PLOTS = results.ROOT / "build" / "plots"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.plot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--results",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="results files (default: all of docs/results/, and of bench-results/ for plots of your own)",
    )
    p.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where all go (default: docs/plots/; build/plots/ for bench-results/)",
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


def draw_devices(sheets: Sequence[charts.Sheet], labels: Sequence[str], out: Path) -> list[Path]:
    """Draw the devices beside each other, if there are two -> the paths written."""
    with matplotlib.rc_context(style.SETTINGS):
        fig = devices.chart(sheets, labels)
    return style.save(fig, out, "devices") if fig is not None else []


def draw_own(recorded: Sequence[results.Results], own: Sequence[results.Results], out: Path) -> list[Path]:
    """Draw what was measured here, and its devices beside the recorded ones -> the paths written."""
    mine, theirs = charts.sheets(own), charts.sheets(recorded)
    labels = [*("" for _ in theirs), *(f"{sheet.device}, here" for sheet in mine)]
    return draw(own, out) + draw_devices([*theirs, *mine], labels, out)


def draw_hardware(out: Path) -> list[Path]:
    """Draw what the emulator is asked for -> the paths written; without a compiler nothing, and say so."""
    lacking = missing()
    if lacking:
        print(f"bank-conflicts and fragments are not drawn: {lacking}", file=sys.stderr)
        return []
    from tools.plot import hardware

    return hardware.draw(out)


def draw_pictures(out: Path) -> list[Path]:
    """Draw the pictures of ideas that the documentation shows -> the paths written."""
    from tools.pictures.catalogue import CATALOGUE, FOR_DOCS, NEEDS_COMPILER

    lacking = missing()
    wanted = [name for name in FOR_DOCS if not lacking or name not in NEEDS_COMPILER]
    return [path for name in wanted for path in style.save(CATALOGUE[name](), out, name)]


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    paths = args.results if args.results is not None else results.committed()
    own = [] if args.results is not None else sorted(OWN_RESULTS.glob("*.json"))
    if not paths and not own:
        print(f"no results files in {results.RESULTS_DIR}; `python -m tools.bench` makes one", file=sys.stderr)
        return 1
    out, own_out = args.out or PLOTS, args.out or OWN_PLOTS
    for folder in (out, own_out) if own else (out,):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            p.error(f"argument --out: {folder} cannot be made: {problem.strerror}")
    good, bad = results.load_all(paths)
    mine, also_bad = results.load_all(own)
    bad += also_bad
    for problem in bad:
        print(problem, file=sys.stderr)
    try:
        written = draw(good, out)
        if not mine:
            written += draw_devices(charts.sheets(good), (), out)
        if args.results is None:
            written += draw_hardware(out) + draw_pictures(out)
        if mine:
            written += draw_own(good, mine, own_out)
    except KeyboardInterrupt:
        return 130
    for path in written:
        print(path)
    if good and not written:
        print(f"nothing to draw in {', '.join(str(file.path) for file in good)}", file=sys.stderr)
    return 1 if bad or not written else 0


if __name__ == "__main__":
    sys.exit(main())
