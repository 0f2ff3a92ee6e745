"""Fill the figures of README.md, the stage cards, docs/ and the lessons from the results files, between markers:

    reaches <!-- inject: tflops stage=s13 headdim=128 causal=no seqlen=4k -->512 TFLOP/s<!-- /inject -->

What stands between a marker and its end is replaced; nothing else of a document changes. A marker in a fenced
code block is left alone. Nothing is written when any marker cannot be filled.

Kinds and their keys ([] may be left out; causal is then no):

{kinds}

stage=, over=: a stage (s13, s13_triton_tuned), a peer. seqlen=4096 or 4k. name=: a counter of tools.profile; of
sass, registers, blocks, limit ..., or a family of instructions (HMMA; in the main loop, loop:HMMA).
device=: a part of its name, for results that hold several. The tables are blocks: their end stands on a line of
its own.

Exit codes: 0 all is filled (--check: nothing was stale); 1 stale markers, or some that cannot be filled, or a
damaged results file; 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools import results
from tools.ablate.table import load as load_ablation
from tools.emulator.agreement import load as load_agreement
from tools.figures import KINDS, Data, FigureError, figure, load_profile, usage
from tools.overhead import load as load_overhead
from tools.sass.records import load as load_sass

MARKER = re.compile(r"<!--\s*inject:\s*(?P<asks>.*?)\s*-->(?P<text>.*?)(?P<end><!--\s*/inject\s*-->)", re.DOTALL)
START = re.compile(r"<!--\s*inject:")
END = re.compile(r"<!--\s*/inject\s*-->")
FENCE = re.compile(r"^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)", re.DOTALL | re.MULTILINE)


class InjectError(Exception):
    """A document's markers cannot be filled. Each problem names the file and line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Filled:
    """A document with its markers filled, and the "line: what" of those that were stale."""

    text: str
    stale: list[str]


def fill(document: str, data: Data, name: str = "document") -> Filled:
    """Fill every marker of a Markdown document. Raises InjectError naming `name` and the line."""
    fences = [match.span() for match in FENCE.finditer(document)]
    problems, stale, parts, done = [], [], [], 0
    position = 0
    while start := START.search(document, position):
        position = start.end()
        if any(low <= start.start() < high for low, high in fences):
            continue
        line = document.count("\n", 0, start.start()) + 1
        match = MARKER.match(document, start.start())
        following = START.search(document, start.end())
        if match is None or (following and following.start() < match.end()):
            problems.append(f"{name}:{line}: marker without its end, <!-- /inject -->")
            continue
        position = match.end()
        try:
            text = _text(match["asks"], data)
        except FigureError as problem:
            problems.append(f"{name}:{line}: {problem}")
            continue
        if text != match["text"]:
            stale.append(f"{name}:{line}: {match['asks']}")
        parts += [document[done : match.start("text")], text]
        done = match.start("end")
    ends = sum(not any(low <= end.start() < high for low, high in fences) for end in END.finditer(document))
    starts = sum(not any(low <= s.start() < high for low, high in fences) for s in START.finditer(document))
    if ends > starts:
        problems.append(f"{name}: {ends} markers end, and {starts} begin")
    if problems:
        raise InjectError(problems)
    return Filled("".join([*parts, document[done:]]), stale)


def _text(asks: str, data: Data) -> str:
    try:
        kind, *words = shlex.split(asks)
    except ValueError:
        raise FigureError(f"marker is {asks!r}; accepted: a kind, then key=value") from None
    keys = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise FigureError(f"{word!r} in {asks!r}; accepted: key=value")
        keys[key] = value
    text = figure(data, kind, keys)
    return f"\n{text}\n" if KINDS[kind].block else text


def documents(root: Path = results.ROOT) -> list[Path]:
    """The documents whose figures are injected."""
    found = [
        root / "README.md",
        *root.glob("stages/*/README.md"),
        *root.glob("docs/**/*.md"),
        *root.glob("notebooks/*.md"),
    ]
    return sorted(path for path in found if path.exists())


def parser() -> argparse.ArgumentParser:
    kinds = "\n".join(f"    {name} {usage(kind)}".rstrip() for name, kind in KINDS.items())
    p = argparse.ArgumentParser(
        prog="python -m tools.inject",
        description=__doc__.format(kinds=kinds),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "documents", type=Path, nargs="*", help="default: README.md, stages/*/README.md, docs/**/*.md, notebooks/*.md"
    )
    p.add_argument("--check", action="store_true", help="write nothing, and list the markers that are stale")
    p.add_argument("--results", type=Path, nargs="+", metavar="FILE", help="results files (default: docs/results/)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    paths = args.documents or documents()
    for path in paths:
        if not path.is_file():
            p.error(f"argument documents: {path} is no file")
    data, problems = load_data(args.results if args.results is not None else results.committed())
    filled = {}
    for path in paths:
        text = path.read_text(encoding="utf-8")
        try:
            filled[path] = fill(text, data, _shown(path))
        except InjectError as found:
            problems += found.problems
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    stale = [line for document in filled.values() for line in document.stale]
    if args.check:
        for line in stale:
            print(f"{line}: stale; `python -m tools.inject` fills it", file=sys.stderr)
        return 1 if stale else 0
    for path, document in filled.items():
        if document.stale:
            results.write_text(path, document.text)
            print(f"{_shown(path)}: {len(document.stale)} filled")
    return 0


def load_data(paths: Sequence[Path]) -> tuple[Data, list[str]]:
    """What figures are made from, these results files and all other recorded data; and what of it is damaged."""
    files, damaged = results.load_all(paths)
    problems = [str(problem) for problem in damaged]
    loaders = {
        "profile": load_profile,
        "sass": load_sass,
        "emulator": load_agreement,
        "ablation": load_ablation,
        "overhead": load_overhead,
    }
    found = {folder: _load_folder(results.RESULTS_DIR / folder, load, problems) for folder, load in loaders.items()}
    found["profile"] = [profile for profiles in found["profile"] for profile in profiles]
    return Data.of(files, *found.values()), problems


def committed() -> Data:
    """What figures are made from, as the repository holds it. Raises ResultsError for damaged files."""
    data, problems = load_data(results.committed())
    if problems:
        raise results.ResultsError("\n".join(problems))
    return data


def _load_folder(folder: Path, load: Callable, problems: list[str]) -> list:
    """What `load` makes of each file in `folder`; the damaged ones go to `problems`."""
    loaded = []
    for path in sorted(folder.glob("*.json")):
        try:
            loaded.append(load(path))
        except results.ResultsError as problem:
            problems.append(str(problem))
    return loaded


def _shown(path: Path) -> str:
    """Relative to the repository where it lies in there."""
    path = path.resolve()
    return str(path.relative_to(results.ROOT)) if path.is_relative_to(results.ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())
