"""Make the lessons from their texts: execute notebooks/sNN_….md and write notebooks/sNN_….ipynb with the outputs.

    python -m tools.notebooks               all of them
    python -m tools.notebooks s20 s21       some
    python -m tools.notebooks --check       whether they are in step with their texts, executed, and fit to be shown
    python -m tools.notebooks --from-notebook s20    write the text anew from a notebook that was edited in Jupyter

The text is what is edited and reviewed; a notebook is written whole, or not at all if a cell fails. No GPU is needed:
the emulator and Triton's interpreter take its place.

Exit codes: 0 all is well; 1 a notebook failed, or --check found something; 2 wrong arguments; 130 interrupted
(finished notebooks are kept).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from tools.notebooks.pair import NotebookError, Pair, load, pairs, problems, save


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.notebooks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("names", nargs="*", metavar="NAME", help="s20, s20_mma (default: all)")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="execute nothing, write nothing")
    what.add_argument("--from-notebook", action="store_true", help="write the text from the notebook")
    p.add_argument("--jobs", type=int, default=2, help="notebooks at once (default: 2)")
    p.add_argument("--limit", type=float, default=600, metavar="S", help="seconds for a cell (default: 600)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    if args.jobs < 1:
        p.error(f"argument --jobs: is {args.jobs}; accepted: 1 or more")
    if not args.limit > 0:
        p.error(f"argument --limit: is {args.limit}; accepted: more than 0")
    try:
        chosen = pairs(args.names)
    except NotebookError as problem:
        p.error(f"argument NAME: {problem}")
    try:
        if args.check:
            return check(chosen)
        if args.from_notebook:
            return write_texts(p, chosen, args.names)
        return make(chosen, args.jobs, args.limit)
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        return 130


def check(chosen: Sequence[Pair]) -> int:
    found = [line for pair in chosen for line in problems(pair)]
    print("\n".join(found) or f"{len(chosen)} notebooks are in step with their texts", file=sys.stderr)
    return 1 if found else 0


def write_texts(p: argparse.ArgumentParser, chosen: Sequence[Pair], names: Sequence[str]) -> int:
    import jupytext

    from tools.results import write_text

    if not names:
        p.error("--from-notebook: say which; it writes over the texts")
    for pair in chosen:
        try:
            notebook = load(pair)
        except NotebookError as problem:
            print(problem, file=sys.stderr)
            return 1
        write_text(pair.text, jupytext.writes(notebook, fmt="md"))
        print(pair.text)
    return 0


def make(chosen: Sequence[Pair], jobs: int, limit_s: float) -> int:
    from tools.notebooks.execute import Failed, execute

    def one(pair: Pair) -> float:
        began = time.monotonic()
        save(pair, execute(pair, limit_s))
        return time.monotonic() - began

    failed = 0
    pool = ThreadPoolExecutor(jobs)
    running = {pool.submit(one, pair): pair for pair in chosen}
    try:
        for number, future in enumerate(as_completed(running), start=1):
            pair = running[future]
            try:
                print(f"{number} of {len(chosen)}: {pair.name}, {future.result():.0f} s", flush=True)
            except (Failed, NotebookError) as failure:
                failed += 1
                print(f"{number} of {len(chosen)}: {failure}", file=sys.stderr, flush=True)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
