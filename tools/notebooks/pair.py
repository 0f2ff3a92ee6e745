"""A notebook and its text: the text, Markdown with code blocks, is what is written and reviewed; the notebook is made
from it and has the outputs besides."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jupytext
import nbformat

from tools.results import ROOT, write_text

FOLDER = ROOT / "notebooks"
MAX_BYTES = 1_000_000  # GitHub shows no larger ones
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


class NotebookError(Exception):
    """A notebook that cannot be used. The message names the file and what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """text: the .md; notebook: the .ipynb beside it, which need not be there yet."""

    text: Path

    @property
    def notebook(self) -> Path:
        return self.text.with_suffix(".ipynb")

    @property
    def name(self) -> str:
        return self.text.stem


def pairs(names=(), folder: Path = FOLDER) -> list[Pair]:
    """All of them in order, or those named: s20, s20_mma, notebooks/s20_mma.md. Raises NotebookError."""
    there = [Pair(path) for path in sorted(folder.glob("*.md")) if path.name != "README.md"]
    if not names:
        return there
    chosen = []
    for name in names:
        wanted = Path(name).stem
        found = [pair for pair in there if wanted in (pair.name, pair.name.partition("_")[0])]
        if not found:
            raise NotebookError(f"notebook is {name!r}; there are {', '.join(pair.name for pair in there) or 'none'}")
        chosen += found
    return list(dict.fromkeys(chosen))


def from_text(pair: Pair):
    """The notebook that the text says, without outputs."""
    try:
        notebook = jupytext.read(pair.text, fmt="md")
    except Exception as problem:
        raise NotebookError(f"{pair.text.name}: is no notebook's text: {problem}") from None
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{number:02d}"  # the same every time: nothing of a notebook changes but what was changed
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def load(pair: Pair):
    """The notebook as it is committed. Raises NotebookError."""
    try:
        return nbformat.read(pair.notebook, as_version=4)
    except FileNotFoundError:
        raise NotebookError(f"{pair.notebook.name}: is not there; `make notebooks` makes it") from None
    except Exception as problem:
        raise NotebookError(f"{pair.notebook.name}: cannot be read: {problem}") from None


def save(pair: Pair, notebook) -> None:
    write_text(pair.notebook, nbformat.writes(notebook, version=4) + "\n")


def sources(notebook) -> list[tuple[str, str, dict]]:
    return [(cell.cell_type, cell.source, dict(cell.metadata)) for cell in notebook.cells]


def problems(pair: Pair) -> list[str]:
    """What is wrong with a committed notebook: out of step with its text, not executed, failed, too large, or with the
    state of widgets, with which GitHub shows nothing at all."""
    try:
        notebook, text = load(pair), from_text(pair)
    except NotebookError as problem:
        return [str(problem)]
    found = []
    name = pair.notebook.name
    if [s[:2] for s in sources(notebook)] != [s[:2] for s in sources(text)]:
        found.append(f"{name}: is out of step with {pair.text.name}; `python -m tools.notebooks {pair.name}` mends it")
    if "widgets" in notebook.metadata or any("widget" in kind for kind in kinds(notebook)):
        found.append(f"{name}: holds the state of widgets")
    size = pair.notebook.stat().st_size
    if size > MAX_BYTES:
        found.append(f"{name}: has {size:,} bytes; accepted: {MAX_BYTES:,}")
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        if cell.execution_count is None:
            found.append(f"{name}: cell {number} was not executed")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"{name}: cell {number} failed: {output.ename}: {output.evalue}")
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"{name}: cell {number} wrote to stderr: {output.text.strip()[:200]}")
    return found


def kinds(notebook) -> set[str]:
    """The MIME types of its outputs."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return {kind for output in outputs for kind in output.get("data", {})}


def said(notebook) -> list[str]:
    """What every code cell says, without pictures: the same wherever there is no GPU."""
    return ["\n".join(_text(output) for output in cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]


def _text(output) -> str:
    if output.output_type == "stream":
        return output.text
    data = output.get("data", {})
    return data.get("text/markdown") or data.get("text/plain") or ""
