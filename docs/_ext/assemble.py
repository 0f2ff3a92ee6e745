"""The source tree that Sphinx reads, assembled from the repository.

Everything in it is made from what is committed: the chapters of docs/, the stages' cards, their notebooks, the diffs
with their parents, recorded results, and the source files that any of these link to. What has not changed is not
written again, so that Sphinx builds only what has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from docs._ext import stage_page
from docs._ext.links import Book, shown_in, source_page
from docs._ext.pictures import Pictures
from docs._ext.stage_page import LANGUAGE, PARTS, parts_of_the_book
from stages import STAGES
from tools import results

PARTS_MARKER = "<!-- book: parts -->"
COURSE_MARKER = "<!-- book: classroom -->"
NOT_CHAPTERS = ("_ext", "_static", "_templates", "results", "plots")
LARGEST = 200_000  # characters of a source file that is shown whole


class Incomplete(Exception):
    """A stage lacks what its page is made from. One line for each thing that is missing."""


@dataclass(frozen=True)
class Assembled:
    """What was made.

    missing: "s21_swizzle: no notebook" and the like. same_documents: none came and none went since the last time, so
    that Sphinx need not read again those that have not changed.
    """

    source: Path
    documents: int
    missing: tuple[str, ...]
    same_documents: bool


def assemble(root: Path, to: Path, *, partial: bool = False) -> Assembled:
    """Make the source tree of the book of the repository at `root` in the folder `to`.

    partial: a stage without a notebook is no error, and its page has none. Raises Incomplete, links.BrokenLink,
    pictures.UnknownPicture.
    """
    notebooks = {p.stem: p for p in sorted((root / "notebooks").glob("s[0-9][0-9]_*.ipynb"))}
    missing = tuple(_missing(notebooks))
    if missing and not partial:
        raise Incomplete("\n".join(missing))
    chapters = list(_chapters(root))
    book = Book(root, _pages(root, chapters, notebooks))
    pictures = Pictures()
    files: dict[str, str | bytes] = {}
    for path in chapters:
        name = path.relative_to(root).as_posix()
        place = book.pages[name]
        text = pictures.text(name, place, book.text(name, place, path.read_text(encoding="utf-8")))
        files[place] = _with_trees(text, root) if place == "index.md" else text
    files_of_results, damaged = results.load_all(results.committed())
    if damaged:
        raise damaged[0]
    tables = stage_page.Tables.of([record for file in files_of_results for record in file.records])
    for stage in STAGES:
        card = f"stages/{stage.name}/README.md"
        place = stage_page.place(stage)
        text = book.text(card, place, (root / card).read_text(encoding="utf-8"))
        notebook = notebooks.get(stage.name)
        rung = pictures.step(place, stage)
        files[place] = stage_page.page(stage, text, tables, rung, notebook.name if notebook else None)
        files[f"_extra/diffs/{stage.name}.html"] = stage_page.diff_page(stage) if stage.parent else ""
        book.files.update(_kernel_files(root, stage))
    for path in notebooks.values():
        name = path.relative_to(root).as_posix()
        files[book.pages[name]] = _notebook(book, name, path)
    files["_static/diff.css"] = stage_page.diff_styles()
    files |= pictures.files
    files |= _sources(book)
    for name in book.files:
        files[f"_repo/{name}"] = (root / name).read_bytes()
    for path in sorted((root / "docs" / "_static").iterdir()):
        files[f"_static/{path.name}"] = path.read_bytes()
    before = _documents(path.relative_to(to).as_posix() for path in to.rglob("*"))
    _write(to, {name: content for name, content in files.items() if content})
    documents = _documents(files)
    return Assembled(to, len(documents), missing, documents == before)


def _documents(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.endswith((".md", ".ipynb")) and not name.startswith("_")}


def _missing(notebooks: Mapping[str, Path]) -> Iterator[str]:
    for stage in STAGES:
        if not (stage.folder / "README.md").is_file():
            yield f"{stage.name}: no card (stages/{stage.name}/README.md)"
        if stage.name not in notebooks:
            yield f"{stage.name}: no notebook (notebooks/{stage.name}.ipynb)"


def _chapters(root: Path) -> Iterator[Path]:
    """The Markdown of docs/, the list of lessons, the contributor's guide, the emulator's."""
    for path in sorted((root / "docs").rglob("*.md")):
        if path.relative_to(root / "docs").parts[0] not in NOT_CHAPTERS:
            yield path
    yield root / "notebooks" / "README.md"
    yield root / "CONTRIBUTING.md"
    yield root / "tools" / "emulator" / "README.md"


def _pages(root: Path, chapters: list[Path], notebooks: Mapping[str, Path]) -> dict[str, str]:
    """Repository path -> page, see `links.Book`."""
    pages = {p.relative_to(root).as_posix(): p.relative_to(root / "docs").as_posix()
             for p in chapters if p.is_relative_to(root / "docs")}  # fmt: skip
    pages |= {"README.md": "index.md", "CONTRIBUTING.md": "adding-a-stage.md", "docs": "index.md"}
    pages |= {"notebooks": "lessons.md", "notebooks/README.md": "lessons.md"}
    pages |= {"tools/emulator": "emulator.md", "tools/emulator/README.md": "emulator.md"}
    for stage in STAGES:
        place, folder = stage_page.place(stage), f"stages/{stage.name}"
        pages |= {folder: place, f"{folder}/README.md": place}
        pages[stage.kernel_file.relative_to(root).as_posix()] = f"{place}#{stage.short}-kernel"
        for suffix in (".ipynb", ".md"):  # without a notebook, what links to it leads to the stage
            there = stage.name in notebooks
            pages[f"notebooks/{stage.name}{suffix}"] = f"notebooks/{stage.name}.ipynb" if there else place
    return pages


def _kernel_files(root: Path, stage) -> Iterator[str]:
    yield stage.kernel_file.relative_to(root).as_posix()
    if stage.capability.backend == "cuda":
        yield f"stages/{stage.name}/stage.py"


def _with_trees(index: str, root: Path) -> str:
    """The front page with a table of contents for every part that has stages."""
    trees = []
    for number, stages in parts_of_the_book().items():
        names = [stage_page.place(stage).removesuffix(".md") for stage in stages]
        if (root / "docs" / "checks" / f"part{number}.md").is_file():
            names.append(f"checks/part{number}")
        trees.append(_tree(f"Part {number}: {PARTS[number]}", names))
    order = {"instructor": 0, "student": 1}  # who sets it up, who takes it; then the rest
    classroom = sorted((p.stem for p in (root / "docs" / "classroom").glob("*.md")), key=lambda n: (order.get(n, 2), n))
    course = _tree("For courses", [f"classroom/{name}" for name in classroom]) if classroom else ""
    for marker, text in ((PARTS_MARKER, "\n\n".join(trees)), (COURSE_MARKER, course)):
        if index.count(marker) != 1:
            raise ValueError(f"docs/index.md has {marker!r} {index.count(marker)} times; accepted: once")
        index = index.replace(marker, text)
    return index


def _tree(caption: str, names: list[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", f":caption: '{caption}'", "", *names, "```"])


def _notebook(book: Book, name: str, path: Path) -> str:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = book.text(name, book.pages[name], "".join(cell["source"]))
        for output in cell.get("outputs", ()):
            if "text/markdown" in (shown := output.get("data", {})):
                shown["text/markdown"] = book.text(name, book.pages[name], "".join(shown["text/markdown"]))
    return json.dumps(notebook, ensure_ascii=False, indent=1)


def _sources(book: Book) -> dict[str, str]:
    """A page for every source file and folder that is linked to; a folder's page links to what is in it."""
    made: dict[str, str] = {}
    while todo := sorted(path for path in book.sources if source_page(book.root, path) not in made):
        for path in todo:
            page = source_page(book.root, path)
            made[page] = _folder(book, path, page) if (book.root / path).is_dir() else _file(book, path)
    return made


ORPHAN = "---\norphan: true\n---\n"  # no table of contents lists it: it is reached by links


def _folder(book: Book, path: str, page: str) -> str:
    """What a folder says of itself, if it does, and what is in it."""
    readme = f"{path}/README.md"
    said = _markdown(book, readme, page) if (book.root / readme).is_file() else f"{ORPHAN}# `{path}/`"
    rows = []
    for file in shown_in(book.root / path):
        if file.name == "README.md":
            continue
        if file.is_file() and _shown(file):
            rows.append(f"- [`{file.name}`]({book.link(f'{path}/.', page, file.name)})")
        else:
            rows.append(f"- `{file.name}{'/' if file.is_dir() else ''}`")
    return "\n".join([said.rstrip(), "", f"## Files in `{path}/`", "", *rows, ""])


def _markdown(book: Book, path: str, page: str) -> str:
    return ORPHAN + book.text(path, page, (book.root / path).read_text(encoding="utf-8"))


def _shown(file: Path) -> bool:
    return file.suffix in (*LANGUAGE, ".md", ".txt", ".toml") and file.stat().st_size <= LARGEST


def _file(book: Book, path: str) -> str:
    file = book.root / path
    if file.suffix == ".md":
        return _markdown(book, path, source_page(book.root, path))
    head = f"{ORPHAN}# `{path}`\n"
    if file.suffix == ".json" or file.stat().st_size > LARGEST:
        return f"{head}\nA file of {file.stat().st_size:,} bytes, in the repository.\n"
    book.files.add(path)
    return f"{head}\n{stage_page.included(path)}\n"


def _write(to: Path, files: Mapping[str, str | bytes]) -> None:
    """Make the folder hold exactly `files`; what is the same keeps its date."""
    for name, content in files.items():
        path = to / name
        new = content if isinstance(content, bytes) else content.encode()
        if not path.is_file() or path.read_bytes() != new:
            path.parent.mkdir(parents=True, exist_ok=True)
            results.write_bytes(path, new)
    for path in sorted(to.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(to).as_posix() not in files:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
