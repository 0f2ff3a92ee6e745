"""A submission as it comes: a folder, a zip, a zip in a folder, a notebook, one file. What is wanted of it is found;
nothing else is touched.

Only the files that the assignment names are taken, as bytes, and put where they belong: tests, tools or links that a
submission brings along have no effect.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import stat
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tools.assignment.definition import Assignment

FILE_BYTES = 1 << 20  # of one submitted file; a kernel has some 20 kB
ZIP_BYTES = NOTEBOOK_BYTES = 16 << 20  # of a zip in a zip, of a notebook with its outputs
ENTRIES = 5000  # that are looked at


class SubmissionError(ValueError):
    """A submission cannot be read at all. The message can be shown to the student."""


@dataclass(frozen=True)
class Found:
    """files: path from the repository's root -> text; problems: path -> why there is none; note: how they were found,
    where it was in an unusual way."""

    files: dict[str, str]
    problems: dict[str, str]
    note: str = ""


def read(assignment: Assignment, path: Path) -> Found:
    """Find the assignment's files in a folder or a zip, whatever folders they are wrapped in."""
    path = Path(path)
    if path.is_dir():
        return _found(assignment, *_in_folder(path))
    if path.is_file() and (path.suffix.lower() in ARCHIVES or zipfile.is_zipfile(path)):
        return _found(assignment, *_in_zip(path, path.name))
    if path.is_file():
        return _found(assignment, [PurePosixPath(path.name)], lambda _, most=FILE_BYTES: _bytes_of(path, most))
    raise SubmissionError("there is no submission: neither a folder nor a zip")


ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")  # only the first can be read


def _found(assignment: Assignment, candidates: list[PurePosixPath], fetch, depth: int = 0) -> Found:
    """candidates: paths in what was handed in; fetch(path, most): its bytes, at most so many."""
    files, problems = {}, {}
    picked: dict[str, PurePosixPath] = {}
    for wanted in assignment.submitted:
        try:
            picked[wanted] = _pick(wanted, candidates, assignment)
        except SubmissionError as error:
            problems[wanted] = str(error)
    if not picked:
        other = _wrapped(assignment, candidates, fetch, depth)
        if other is not None:
            return other
    for wanted, candidate in picked.items():
        try:
            files[wanted] = _decode(fetch(candidate))
        except SubmissionError as error:
            problems[wanted] = str(error)
    return Found(files, problems)


def _wrapped(assignment: Assignment, candidates: list[PurePosixPath], fetch, depth: int) -> Found | None:
    """What an archive or a notebook holds that is there instead of the files; None: neither is there."""
    packed = [c for c in candidates if c.suffix.lower() in ARCHIVES]
    books = [c for c in candidates if c.suffix == ".ipynb"]
    if len(packed) > 1 or (not packed and len(books) > 1):
        several = packed or books
        raise SubmissionError(
            f"there are {len(several)} {'archives' if packed else 'notebooks'} and none of the files: "
            f"{', '.join(map(str, several[:4]))}; hand in one, submission.zip"
        )
    if packed:
        if depth:
            raise SubmissionError(f"{packed[0]} is a zip in a zip in a zip; hand in one, submission.zip")
        inner = _in_zip(io.BytesIO(fetch(packed[0], ZIP_BYTES)), packed[0].name)
        return _found(assignment, *inner, depth=depth + 1)
    if books:
        return _of_notebook(assignment, _decode(fetch(books[0], NOTEBOOK_BYTES)), books[0].name)
    return None


def _of_notebook(assignment: Assignment, text: str, name: str) -> Found:
    """The files that the notebook's %%task cells write, from the handout's. As the handout's own workbench does it."""
    try:
        cells = json.loads(text)["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SubmissionError(f"{name} is no notebook that can be read; hand in submission.zip") from None
    tasks = [source.partition("\n") for source in sources if source.startswith("%%task ")]
    if not tasks:
        raise SubmissionError(f"{name} has no %%task cells; hand in submission.zip, which `python submit.py` writes")
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        bench = _workbench(assignment, Path(folder))
        for head, _, body in tasks:
            try:
                bench.put(*head.split()[1:], body)
            except (ValueError, TypeError) as error:
                raise SubmissionError(f"{name}, the cell {head!r}: {error}") from None
        files = {wanted: (Path(folder) / wanted).read_text(encoding="utf-8") for wanted in assignment.submitted}
    return Found(files, {}, f"The files were put together from the %%task cells of {name}.")


def _workbench(assignment: Assignment, folder: Path):
    """The handout's workbench, at work on the handout's files in `folder`."""
    from tools.assignment.notebook import stubs
    from tools.assignment.tree import stripped

    for stage, wanted in zip(assignment.stages, assignment.submitted):
        (folder / wanted).parent.mkdir(parents=True)
        (folder / wanted).write_text(stripped(assignment, stage), encoding="utf-8")
    about = {"stages": [stage.short for stage in assignment.stages], "submit": list(assignment.submitted)}
    (folder / "assignment.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "stubs.json").write_text(json.dumps(stubs(assignment)), encoding="utf-8")
    path = Path(__file__).resolve().parent / "templates" / "workbench.py"
    spec = importlib.util.spec_from_file_location("workbench_of_a_submission", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    bench.HERE = folder
    return bench


def _pick(wanted: str, candidates: list[PurePosixPath], assignment: Assignment) -> PurePosixPath:
    """The candidate whose path ends most like the wanted one: folder and name, or the name where it is unambiguous."""
    parts = PurePosixPath(wanted).parts
    for length in range(len(parts), 1, -1):
        hits = [c for c in candidates if c.parts[-length:] == parts[-length:]]
        if hits:
            return min(hits, key=lambda c: (len(c.parts), str(c)))
    short, suffix = parts[1].partition("_")[0], PurePosixPath(wanted).suffix
    named = {short, parts[1]}
    hits = [c for c in candidates if c.suffix == suffix and c.stem in named]
    alone = len(assignment.submitted) == 1
    if not hits and alone:
        hits = [c for c in candidates if c.name == parts[-1]]
    if not hits and alone and len(candidates) == 1:
        hits = [c for c in candidates if c.suffix == suffix]  # ada_12345_kernel.cu, as a learning platform names it
    if len(hits) > 1:
        raise SubmissionError(f"{len(hits)} files are called {hits[0].name}; hand in one, as {wanted}")
    if hits:
        return hits[0]
    loose = [c for c in candidates if c.suffix == suffix and c.parent.name not in _folders(assignment)]
    if loose and not alone:
        raise SubmissionError(
            f"{loose[0]} does not say whether it is {' or '.join(assignment.submitted)}; hand in submission.zip, which "
            f"`python submit.py` writes, or call this one {short}{suffix}"
        )
    raise SubmissionError(f"{wanted} is missing from the submission")


def _folders(assignment: Assignment) -> set[str]:
    return {PurePosixPath(path).parent.name for path in assignment.submitted}


NO_WORK = ("__pycache__", ".git", "__MACOSX", ".ipynb_checkpoints", ".venv")  # folders


def _in_folder(folder: Path):
    candidates = []
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(f for f in folders if f not in NO_WORK)
        for name in sorted(names):
            candidates.append(PurePosixPath(Path(parent, name).relative_to(folder).as_posix()))
        if len(candidates) > ENTRIES:
            raise SubmissionError(f"the submission has more than {ENTRIES} files")
    return candidates, lambda candidate, most=FILE_BYTES: _bytes_of(folder / str(candidate), most)


def _in_zip(path: Path | io.BytesIO, name: str):
    try:
        packed = zipfile.ZipFile(path)
        entries = {PurePosixPath(info.filename): info for info in packed.infolist()[: ENTRIES + 1] if not info.is_dir()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        start = b""
        with contextlib.suppress(OSError), path.open("rb") if isinstance(path, Path) else path as file:
            file.seek(0)
            start = file.read(4)
        if start.startswith(b"PK"):
            raise SubmissionError(f"the zip, {name}, is damaged") from None
        raise SubmissionError(f"{name} is not a zip; hand in submission.zip, which `python submit.py` writes") from None
    if len(entries) > ENTRIES:
        raise SubmissionError(f"the submission has more than {ENTRIES} files")
    entries = {p: i for p, i in entries.items() if not set(NO_WORK) & set(p.parts[:-1])}

    def fetch(candidate: PurePosixPath, most: int = FILE_BYTES) -> bytes:
        info = entries[candidate]
        if stat.S_ISLNK(info.external_attr >> 16):
            raise SubmissionError(f"{candidate} is a link; hand in the file itself")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack into much memory
            raise SubmissionError(f"{candidate} is packed in an unusual way; make an ordinary zip")
        try:
            with packed.open(info) as file:  # read to the bound, whatever size the zip claims
                return _bounded(file.read(most + 1), candidate, most)
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


def _bytes_of(path: Path, most: int) -> bytes:
    if path.is_symlink():
        raise SubmissionError(f"{path.name} is a link; hand in the file itself")
    if not path.is_file():  # a pipe would make the grader wait for ever
        raise SubmissionError(f"{path.name} is no ordinary file")
    try:
        with path.open("rb") as file:
            return _bounded(file.read(most + 1), path.name, most)
    except OSError as error:
        raise SubmissionError(f"{path.name} cannot be read: {error.strerror}") from None


def _bounded(data: bytes, name, most: int) -> bytes:
    if len(data) > most:
        raise SubmissionError(f"{name} is larger than {most >> 20} MiB")
    return data


def _decode(data: bytes) -> str:
    if b"\0" in data:
        raise SubmissionError("the file is no text: it holds zero bytes")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise SubmissionError("the file is no text in UTF-8") from None
