"""Where a file of the repository is found in the book, and Markdown whose links say so.

Documents are written to be read where they lie: their links are paths in the repository. In the book a stage's folder
is a page, so is a source file that somebody links to, and a notebook; `Book` knows which.
"""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path

# Fenced blocks and inline code stay as they are; a link's text may hold code, so a link begins at its "](".
_TOKEN = re.compile(
    r"(?P<fence>^(?P<ticks>`{3,}|~{3,}|:{3,})(?P<head>[^\n]*)\n)"
    r"|(?P<code>(?<!`)(?P<tick>`+)(?!`)[^\n]*?(?<!`)(?P=tick)(?!`))"
    r"|\]\((?P<target>[^)\s]+)\)"
    r"|(?P<marker><!--\s*/?inject\b.*?-->)",
    re.DOTALL | re.MULTILINE,
)
_INCLUDE = re.compile(r"^\{(?P<name>literalinclude|image|figure)\}\s+(?P<path>\S+)(?P<rest>.*)$")
_OUTSIDE = re.compile(r"^(?:[a-z][a-z+.-]*:|#|//)", re.IGNORECASE)
_LINES = re.compile(r"^L\d+(-L\d+)?$")  # GitHub's anchor of some lines; pages of the book have none
IMAGES = (".png", ".svg", ".jpg", ".gif")


class BrokenLink(ValueError):
    """A document links to what is not there. The message names the document and the target."""


@dataclass
class Book:
    """pages: repository path (a file, or a folder with a page of its own) -> document name in the book.

    sources, files: what links have asked for so far: files and folders to be shown as they are, and pictures and
    included files to be copied.
    """

    root: Path
    pages: dict[str, str]
    sources: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)

    def place(self, path: str) -> str:
        """The file of the book that shows `path` of the repository; a picture is its own."""
        if path in self.pages:
            return self.pages[path]
        if path.endswith(IMAGES):
            self.files.add(path)
            return f"_repo/{path}"
        path = path.removesuffix("/README.md")  # a folder's page begins with what it says
        self.sources.add(path)
        return source_page(self.root, path)

    def link(self, document: str, place: str, target: str) -> str:
        """`target` as it stands in the repository's file `document`, for the page `place` of the book."""
        if _OUTSIDE.match(target):
            return target
        path, hash_, anchor = target.partition("#")
        full = posixpath.normpath(posixpath.join(posixpath.dirname(document), path))
        if full not in self.pages and (full.startswith("..") or not (self.root / full).exists()):
            raise BrokenLink(f"{document}: link to {target!r}, which is not in the repository")
        found, _, its_anchor = self.place(full).partition("#")
        anchor = its_anchor if not anchor or _LINES.match(anchor) else anchor
        relative = posixpath.relpath(found, posixpath.dirname(place) or ".")
        return relative + (f"#{anchor}" if anchor else "")

    def text(self, document: str, place: str, markdown: str) -> str:
        """A document of the repository as the book's page `place` has it: links led to pages, markers gone."""
        parts, position = [], 0
        while match := _TOKEN.search(markdown, position):
            parts.append(markdown[position : match.start()])
            position = match.end()
            if match["fence"]:
                if set(match["ticks"]) == {":"} or match["head"].startswith(("{admonition}", "{note}", "{tip}")):
                    parts.append(match["fence"])  # Markdown inside
                    continue
                end = re.compile(rf"^{match['ticks']}[`~]*\s*$", re.MULTILINE).search(markdown, position)
                stop = end.end() if end else len(markdown)
                parts.append(match["ticks"] + self._head(document, place, match["head"]) + "\n")
                parts.append(markdown[position:stop])
                position = stop
            elif match["code"]:
                parts.append(match["code"])
            elif match["target"]:
                parts.append(f"]({self.link(document, place, match['target'])})")
        return "".join([*parts, markdown[position:]])

    def _head(self, document: str, place: str, head: str) -> str:
        """The first line of a fenced block: a directive that names a file names the book's copy of it."""
        match = _INCLUDE.match(head)
        if not match or _OUTSIDE.match(match["path"]):
            return head
        path = posixpath.normpath(posixpath.join(posixpath.dirname(document), match["path"]))
        if not (self.root / path).is_file():
            raise BrokenLink(f"{document}: {match['name']} of {match['path']!r}, which is not in the repository")
        self.files.add(path)
        return f"{{{match['name']}}} /_repo/{path}{match['rest']}"


def source_page(root: Path, path: str) -> str:
    """The page that shows a file or folder as it is."""
    return f"source/{path}/index.md" if (root / path).is_dir() else f"source/{path}.md"


def shown_in(folder: Path) -> list[Path]:
    """The files of a folder, and its folders, that a page of it lists."""
    hidden = ("__pycache__", ".")
    return sorted(p for p in folder.iterdir() if not p.name.startswith(hidden) and os.access(p, os.R_OK))
