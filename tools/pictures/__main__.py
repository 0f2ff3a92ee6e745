"""Draw the pictures of the lessons with their defaults, as PNG and SVG, each named after the picture.

    python -m tools.pictures --list
    python -m tools.pictures --out build/pictures pipeline filmstrip

Exit codes: 0 all is drawn; 1 some cannot be drawn, and it is said which and why; 2 wrong arguments; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tools import results
from tools.emulator import CompileError
from tools.pictures.catalogue import CATALOGUE
from tools.plot import style


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.pictures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("names", nargs="*", metavar="NAME", help="which (default: all; --list names them)")
    p.add_argument(
        "--out", type=Path, default=results.ROOT / "build" / "pictures", metavar="DIR", help="default: build/pictures"
    )
    p.add_argument("--list", action="store_true", help="name the pictures, and draw none")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    for name in args.names:
        if name not in CATALOGUE:
            p.error(f"argument NAME: {name!r} is none of {', '.join(CATALOGUE)}")
    if args.list:
        print("\n".join(CATALOGUE))
        return 0
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        p.error(f"argument --out: {args.out} cannot be made: {problem.strerror}")
    failed = False
    for name in args.names or CATALOGUE:
        try:
            written = style.save(CATALOGUE[name](), args.out, name)
        except (RuntimeError, LookupError, results.ResultsError, CompileError) as problem:
            print(f"{name} is not drawn: {problem}", file=sys.stderr)
            failed = True
        except KeyboardInterrupt:
            return 130
        else:
            print(*written, sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
