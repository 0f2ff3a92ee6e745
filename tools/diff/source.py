"""A kernel file as the diff sees it: its lines with their tokens, without what is not the kernel.

Left out are the solution markers, and the header's first line where it only names the stage.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pygments.lexers import CudaLexer, PythonLexer
from pygments.token import Comment, String, _TokenType

from stages import get
from stages.common.record import Stage
from tools.regions import COMMENT, Region, RegionError, find_regions

LANGUAGES = {"numpy": "Python with NumPy", "triton": "Python with Triton", "cuda": "CUDA C++"}
_LEXERS = {".py": PythonLexer, ".cu": CudaLexer, ".cuh": CudaLexer}
_MARKER = re.compile(r"\s*(?:#|//)\s*(BEGIN|END)\s+SOLUTION\b")
_NAMES_THE_STAGE = re.compile(r'\s*(?://|#|"""|\'\'\')?\s*s\d\d_\w+\b')
_OWN_PACKAGE = re.compile(r"\bstages\.s\d\d_\w+")

UNIT = re.compile(r"\w+|[^\w\s]")

Token = tuple[_TokenType, str]


class SourceError(ValueError):
    """What was named is no kernel. The message says what it was and what is accepted."""


@dataclass(frozen=True)
class Line:
    """One line of a kernel file.

    number: in the file, from 1. tokens: its text in pieces, with Pygments' types. code: without comments and white
    space, "" where there is no code. key: what two lines have to share to be the same.
    """

    number: int
    text: str
    tokens: tuple[Token, ...]
    code: str
    key: str

    @property
    def comment(self) -> str:
        """The text of its comments, without their signs."""
        text = " ".join(piece for kind, piece in self.tokens if is_comment(kind))
        return " ".join(text.replace("//", " ").replace("/*", " ").replace("*/", " ").strip(" #\"'").split())

    @property
    def is_comment(self) -> bool:
        return not self.code and bool(self.key)

    @cached_property
    def units(self) -> Counter:
        """The words and signs of its code; those of the text, where it is only comment."""
        text = "".join(piece for kind, piece in self.tokens if self.is_comment or not is_comment(kind))
        return Counter(UNIT.findall(text))


@dataclass(frozen=True)
class Source:
    """One side of a diff. stage: None for a file of one's own, which then has its path for a label."""

    stage: Stage | None
    path: Path
    label: str
    lines: tuple[Line, ...]
    markers: tuple[int, ...]  # lines of the BEGIN markers
    regions: tuple[Region, ...]
    damaged: str = ""  # what is wrong with the markers; then there are no regions

    @property
    def title(self) -> str:
        return self.stage.title if self.stage else ""

    @property
    def idea(self) -> str:
        return self.stage.idea if self.stage else ""

    @property
    def syntax(self) -> str:
        return "python" if self.path.suffix == ".py" else "cuda"

    @property
    def language(self) -> str:
        """As a reader knows it; a Python file of one's own may be any."""
        if self.stage:
            return LANGUAGES[self.stage.capability.backend]
        return "Python" if self.syntax == "python" else LANGUAGES["cuda"]

    @cached_property
    def code_lines(self) -> int:
        """Lines that are more than comment or white space."""
        return sum(bool(line.code) for line in self.lines)

    def region_of(self, first: int, last: int) -> Region | None:
        """The region that lines `first` to `last` touch, the first of them."""
        return next((r for r in self.regions if r.begin <= last and first <= r.end), None)


def is_comment(kind: _TokenType) -> bool:
    """Whether a token is comment or docstring. Preprocessor lines, comments to Pygments, are code."""
    if kind in String.Doc:
        return True
    return kind in Comment and kind not in Comment.Preproc and kind is not Comment.PreprocFile


def source(what: str | Path | int | Stage) -> Source:
    """A stage (s20, s20_mma, 20, a Stage), or the path of a kernel file (.cu, .cuh, .py). Raises SourceError."""
    if isinstance(what, Stage):
        return _read(what.kernel_file, what)
    if not isinstance(what, Path):
        try:
            stage = get(what)
        except KeyError as unknown:
            if Path(str(what)).suffix not in COMMENT and "/" not in str(what):
                raise SourceError(f"{unknown}; or the path of a kernel file ({', '.join(COMMENT)})") from None
        else:
            return _read(stage.kernel_file, stage)
    path = Path(what)
    if path.suffix not in COMMENT:
        raise SourceError(
            f"{path} ends in {path.suffix!r}; accepted: a stage, or a file that ends in {', '.join(COMMENT)}"
        )
    if not path.is_file():
        raise SourceError(f"{path} is no file")
    return _read(path, None)


def _read(path: Path, stage: Stage | None) -> Source:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise SourceError(f"{path} cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise SourceError(f"{path} is no text in UTF-8") from None
    lines, markers = parse(text, path.suffix)
    try:
        regions, damaged = find_regions(path), ""
    except RegionError as problem:
        regions, damaged = (), str(problem)
    return Source(stage, path, stage.name if stage else str(path), lines, markers, regions, damaged)


def parse(text: str, suffix: str) -> tuple[tuple[Line, ...], tuple[int, ...]]:
    """The lines of a file that count, and the numbers of those that begin a region."""
    lines, markers = [], []
    for number, tokens in enumerate(_tokens_by_line(text, suffix), start=1):
        line = _line(number, tokens)
        marker = _MARKER.match(line.text)
        if marker and marker[1] == "BEGIN":
            markers.append(number)
        only_names_the_stage = number == 1 and _NAMES_THE_STAGE.match(line.text)
        if not marker and not only_names_the_stage:
            lines.append(line)
    while lines and not lines[-1].key:  # what a newline at the end leaves
        lines.pop()
    return tuple(lines), tuple(markers)


def _line(number: int, tokens: tuple[Token, ...]) -> Line:
    text = "".join(piece for _, piece in tokens).rstrip()
    code = "".join(piece for kind, piece in tokens if not is_comment(kind))
    return Line(number, text, tokens, _squeezed(code), _squeezed(text))


def _squeezed(text: str) -> str:
    """Without white space, and without the name that a stage imports its own record by."""
    return "".join(_OWN_PACKAGE.sub("stages.STAGE", text).split())


def _tokens_by_line(text: str, suffix: str) -> list[tuple[Token, ...]]:
    lines: list[list[Token]] = [[]]
    for kind, piece in _LEXERS[suffix](stripnl=False, ensurenl=False).get_tokens(text.expandtabs(4)):
        first, *others = piece.split("\n")
        lines[-1].append((kind, first))
        for other in others:
            lines.append([(kind, other)])
    return [tuple(token for token in line if token[1]) for line in lines]
