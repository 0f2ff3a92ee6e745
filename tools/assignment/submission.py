"""A submission as it comes: a folder, a zip, one file. What is wanted of it is found; nothing else is touched.

Only the files that the assignment names are taken, as bytes, and put where they belong: tests, tools or links that a
submission brings along have no effect.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tools.assignment.definition import Assignment

FILE_BYTES = 1 << 20  # of one submitted file; a kernel has some 20 kB
ENTRIES = 5000  # that are looked at


class SubmissionError(ValueError):
    """A submission cannot be read at all. The message can be shown to the student."""


@dataclass(frozen=True)
class Found:
    """files: path from the repository's root -> text; problems: path -> why there is none."""

    files: dict[str, str]
    problems: dict[str, str]


def read(assignment: Assignment, path: Path) -> Found:
    """Find the assignment's files in a folder or a zip, whatever folders they are wrapped in."""
    path = Path(path)
    if path.is_dir():
        candidates, fetch = _in_folder(path)
    elif path.is_file() and zipfile.is_zipfile(path):
        candidates, fetch = _in_zip(path)
    elif path.is_file():
        candidates, fetch = [PurePosixPath(path.name)], lambda _: _bytes_of(path)
    else:
        raise SubmissionError("there is no submission: neither a folder nor a zip")
    if len(candidates) == 1 and len(assignment.submitted) == 1 and path.is_dir():
        inner = path / str(candidates[0])
        if inner.suffix == ".zip" and not inner.is_symlink() and zipfile.is_zipfile(inner):
            return read(assignment, inner)
    files, problems = {}, {}
    for wanted in assignment.submitted:
        try:
            files[wanted] = _decode(fetch(_pick(wanted, candidates, assignment)))
        except SubmissionError as error:
            problems[wanted] = str(error)
    return Found(files, problems)


def _pick(wanted: str, candidates: list[PurePosixPath], assignment: Assignment) -> PurePosixPath:
    """The candidate whose path ends most like the wanted one: folder and name, or the name where it is unambiguous."""
    parts = PurePosixPath(wanted).parts
    for length in range(len(parts), 1, -1):
        hits = [c for c in candidates if c.parts[-length:] == parts[-length:]]
        if hits:
            return min(hits, key=lambda c: (len(c.parts), str(c)))
    flat = {f"{stage.short}{suffix}" for stage in assignment.stages for suffix in (".py", ".cu")}
    short = f"{parts[1].partition('_')[0]}{PurePosixPath(parts[-1]).suffix}"
    hits = [c for c in candidates if c.name == short and short in flat]
    if not hits and len(assignment.submitted) == 1:
        hits = [c for c in candidates if c.name == parts[-1]]
    if len(hits) > 1:
        raise SubmissionError(f"{len(hits)} files are called {parts[-1]}; hand in one, as {wanted}")
    if not hits:
        raise SubmissionError(f"{wanted} is missing from the submission")
    return hits[0]


def _in_folder(folder: Path):
    candidates = []
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(f for f in folders if f not in ("__pycache__", ".git", "__MACOSX"))
        for name in sorted(names):
            candidates.append(PurePosixPath(Path(parent, name).relative_to(folder).as_posix()))
        if len(candidates) > ENTRIES:
            raise SubmissionError(f"the submission has more than {ENTRIES} files")
    return candidates, lambda candidate: _bytes_of(folder / str(candidate))


def _in_zip(path: Path):
    try:
        packed = zipfile.ZipFile(path)
        entries = {PurePosixPath(info.filename): info for info in packed.infolist()[: ENTRIES + 1] if not info.is_dir()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise SubmissionError("the zip is damaged") from None
    if len(entries) > ENTRIES:
        raise SubmissionError(f"the submission has more than {ENTRIES} files")
    entries = {p: i for p, i in entries.items() if "__MACOSX" not in p.parts}

    def fetch(candidate: PurePosixPath) -> bytes:
        info = entries[candidate]
        if stat.S_ISLNK(info.external_attr >> 16):
            raise SubmissionError(f"{candidate} is a link; hand in the file itself")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack into much memory
            raise SubmissionError(f"{candidate} is packed in an unusual way; make an ordinary zip")
        try:
            with packed.open(info) as file:  # read to the bound, whatever size the zip claims
                return _bounded(file.read(FILE_BYTES + 1), candidate)
        except (
            zipfile.BadZipFile,
            OSError,
            ValueError,
            RuntimeError,
            NotImplementedError,
            EOFError,
            zlib.error,
        ) as error:
            if isinstance(error, SubmissionError):
                raise
            raise SubmissionError(f"{candidate} cannot be read from the zip") from None

    return list(entries), fetch


def _bytes_of(path: Path) -> bytes:
    if path.is_symlink():
        raise SubmissionError(f"{path.name} is a link; hand in the file itself")
    if not path.is_file():  # a pipe would make the grader wait for ever
        raise SubmissionError(f"{path.name} is no ordinary file")
    try:
        with path.open("rb") as file:
            return _bounded(file.read(FILE_BYTES + 1), path.name)
    except OSError as error:
        raise SubmissionError(f"{path.name} cannot be read: {error.strerror}") from None


def _bounded(data: bytes, name) -> bytes:
    if len(data) > FILE_BYTES:
        raise SubmissionError(f"{name} is larger than {FILE_BYTES >> 20} MiB")
    return data


def _decode(data: bytes) -> str:
    if b"\0" in data:
        raise SubmissionError("the file is no text: it holds zero bytes")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise SubmissionError("the file is no text in UTF-8") from None
