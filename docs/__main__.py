"""Build the book: offline HTML from the chapters, the stages' cards, notebooks and diffs, and the recorded results.

Nothing is executed and nothing is fetched: notebooks carry their outputs, and fonts and MathJax come from packages
(`pip install ".[docs]"`). Warnings are errors.

Exit codes: 0 built; 1 a warning, a broken link, or a stage that lacks its card or notebook; 2 wrong arguments, or a
package is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sphinx", "myst_nb", "sphinx_book_theme", "sphinx_design", "sphinx-mathjax-offline")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m docs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--out", type=Path, default=ROOT / "build" / "docs", metavar="DIR",
                   help="where the HTML goes (default: build/docs)")  # fmt: skip
    p.add_argument("--source", type=Path, default=ROOT / "build" / "book", metavar="DIR",
                   help="where the pages are assembled for Sphinx (default: build/book)")  # fmt: skip
    p.add_argument("--fresh", action="store_true", help="build every page, also those that have not changed")
    p.add_argument("--partial", action="store_true", help="build without the notebooks that are missing")
    p.add_argument("--jobs", type=_count, default=min(4, os.cpu_count() or 1), metavar="N",
                   help="processes (default: %(default)s)")  # fmt: skip
    return p


def is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"is {text!r}; accepted: 1 or more")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    for name, path in (("--out", args.out), ("--source", args.source)):
        if path.exists() and not path.is_dir():
            p.error(f"argument {name}: {path} is a file; accepted: a folder, which need not be there yet")
    lacking = [name for name in PACKAGES if not is_there(name)]
    if lacking:
        p.error(f'not installed: {", ".join(lacking)}; `pip install ".[docs]"` brings them')
    from docs._ext.assemble import Incomplete, assemble
    from docs._ext.links import BrokenLink
    from docs._ext.pictures import UnknownPicture

    try:
        made = assemble(ROOT, args.source.resolve(), partial=args.partial)
    except (Incomplete, BrokenLink, UnknownPicture) as problem:
        print(problem, file=sys.stderr)
        return 1
    for line in made.missing:
        print(f"{line}: left out", file=sys.stderr)
    from sphinx.cmd.build import main as sphinx

    options = ["-q", "-W", "--keep-going", "-b", "html", "-c", str(ROOT / "docs"), "-j", str(args.jobs)]
    if args.fresh or not made.same_documents:  # a link to a page that came since is only found by reading again
        options += ["-E", "-a"]
    code = sphinx([*options, str(made.source), str(args.out)])
    if code:
        return 1
    print(f"{made.documents} pages: {args.out / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
