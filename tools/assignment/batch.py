"""A folder of submissions graded side by side: results and a page each, one table for all; goes on where it stopped.

A grader process takes one submission after the other, and has a time limit for each: one that breaks its grader costs
nobody else anything, and still gets a result that says so.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import csv
import hashlib
import io
import json
import os
import queue
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from stages.common.where import gpu_arch
from tools.assignment import descendants, feedback, gradescope, submission
from tools.assignment.definition import ROOT, Assignment, DefinitionError
from tools.assignment.grading import grade, worker_for
from tools.assignment.kinds import MISSING, UNMEASURED
from tools.results import write_text

GRACE_S = 90  # beyond the assignment's time, before a grader is ended
HASHED_BYTES = 64 << 20  # of a submission, to know it again


@dataclass(frozen=True)
class Entry:
    """One submission: who is its file or folder name; state: "graded", "kept" (from an earlier run) or "failed";
    warning: about what it came as."""

    who: str
    path: Path
    state: str
    data: dict
    warning: str = ""


@dataclass(frozen=True)
class Submitted:
    """who: to whom the work belongs, by its name; paths: a folder, a zip, a file, or the several files of one student;
    warning: what to look at, or ""."""

    who: str
    paths: tuple[Path, ...]
    warning: str = ""


WORK = (*submission.ARCHIVES, ".ipynb", ".py", ".cu")  # what a file may be, to be somebody's work
# One of somebody's several files in a folder of everybody's: ada_12345_s01.py, with what a second try adds.
OF_SEVERAL = re.compile(r"(?P<who>.+?)[ _-]+(?P<stage>s\d\d)(_[a-z0-9_]+)?(-\d+| ?\(\d+\))?\.(py|cu)", re.I)


def submissions(folder: Path) -> tuple[list[Submitted], list[str]]:
    """Every folder, and every zip or other file that can be somebody's work, by name; and the names of what cannot.

    A name that two share gets its ending, and a warning. Files that name a stage go together by what is before it.
    """
    paths, skipped = [], []
    several: dict[str, list[Path]] = {}
    for path in sorted(Path(folder).iterdir()):
        if path.name.startswith("."):
            continue
        own_file = path.is_symlink() or not path.is_dir()
        if (own_file and path.suffix.lower() not in WORK) or path.name in submission.NO_WORK:
            skipped.append(path.name)
        elif own_file and (found := OF_SEVERAL.fullmatch(path.name)):
            who = re.sub(r"(_\d+)_\d+$", r"\1", found["who"])  # the second number is the file's own
            several.setdefault(who, []).append(path)
        else:
            paths.append(path)
    wanted = [(p.stem if p.is_symlink() or not p.is_dir() else p.name, (p,)) for p in paths]
    wanted += [(who, tuple(own)) for who, own in several.items()]
    names = [who for who, _ in wanted]
    found = []
    for who, own in wanted:
        same = [p[0].name for other, p in wanted if other == who]
        warning = f"{' and '.join(same)} are both there: which is the one that counts?" if len(same) > 1 else ""
        if len({_stage_of(path) for path in own}) < len(own):
            warning = f"several files of one stage: {', '.join(p.name for p in own)}"
        found.append(Submitted(who if names.count(who) == 1 else own[0].name, own, warning))
    return sorted(found, key=lambda one: one.who), skipped


def _stage_of(path: Path) -> str:
    found = OF_SEVERAL.fullmatch(path.name)
    return found["stage"].lower() if found else ""


def gathered(own: Submitted, to: Path) -> Path:
    """Where the grader finds it: of several files a folder, in which each is called after its stage."""
    if own.paths[0].is_dir() or not _stage_of(own.paths[0]):
        return own.paths[0]
    folder = to / own.who
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for i, path in enumerate(own.paths):
        target = folder / f"{_stage_of(path)}{path.suffix}"
        if target.exists():  # two of one stage: neither is chosen
            (folder / str(i)).mkdir()
            target = folder / str(i) / target.name
        if path.is_file() and not path.is_symlink():
            shutil.copyfile(path, target)
    return folder


class Grader:
    """A process that grades submissions, one at a time; started when it is needed, and again when it is gone."""

    def __init__(self, assignment: Assignment, secret: str, log: Path):
        self.assignment, self.secret, self.log = assignment, secret, log
        self.process: subprocess.Popen | None = None
        self.lock, self.ended = threading.Lock(), False

    def grade(self, path: Path, out: Path) -> str:
        """Have results written to `out` -> what went wrong, or ""."""
        with self.lock:
            if self.ended:
                return "interrupted"
            if self.process is None or self.process.poll() is not None:
                self._start()
            process = self.process
        try:
            process.stdin.write(json.dumps({"path": str(path.absolute()), "out": str(out.absolute())}).encode() + b"\n")
            process.stdin.flush()
        except (OSError, ValueError):
            return "the grader was gone"
        ready, _, _ = select.select([process.stdout], [], [], self.assignment.minutes * 60 + GRACE_S)
        if not ready:
            self._kill()
            return "the grader did not end in its time"
        line = process.stdout.readline()
        if not line:
            self._kill()
            return "the grader broke down"
        return ""

    def _start(self) -> None:
        command = [sys.executable, "-m", "tools.assignment", "serve", self.assignment.name]
        environment = {**os.environ, "ASSIGNMENT_SECRET": self.secret}
        with self.log.open("ab") as said:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, start_new_session=True,
                env=environment,
            )  # fmt: skip

    def _kill(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            end(process)
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()

    def end(self) -> None:
        with self.lock:
            self.ended = True
        process = self.process
        if process is not None:
            end(process)


def serve(assignment: Assignment, secret: str) -> int:
    """Grade what lines on stdin name, one after the other; a line on stdout when one is done."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    descendants.adopt()
    lines = iter(sys.stdin.readline, "")
    try:
        line = next(lines, None)
        while line is not None:
            with worker_for(assignment) as worker:
                before = digest(worker.tree)
                while line is not None:
                    asked = json.loads(line)

                    def after_each(grades, out=Path(asked["out"])) -> None:
                        gradescope.write(grades, out)

                    grade(assignment, Path(asked["path"]), secret, after_each=after_each, worker=worker)
                    for name in assignment.submitted:
                        (worker.tree / name).unlink(missing_ok=True)
                    descendants.end_all(keep=worker.process.pid if worker.process else None)
                    print("done", file=answers, flush=True)
                    line = next(lines, None)
                    if digest(worker.tree) != before:
                        break  # a submission has changed what the next ones would run with: begin anew
    finally:
        descendants.end_all()
    return 0


def digest(folder: Path) -> str:
    """Of all files' names and contents."""
    return fingerprint(folder)


class Batch:
    """out/results/WHO.json, out/feedback/WHO.html, out/grades.csv. again: who is graded again, though nothing changed.

    skipped: the names in the folder that are nobody's work."""

    def __init__(self, assignment: Assignment, secret: str, out: Path, jobs: int, again: Collection[str] = ()):
        self.assignment, self.secret, self.out, self.jobs = assignment, secret, Path(out), jobs
        self.again, self.skipped = set(again), []
        self.graders: queue.SimpleQueue[Grader] = queue.SimpleQueue()
        self.all = [Grader(assignment, secret, self.out / "logs" / f"grader{i}.txt") for i in range(jobs)]
        self.stopped = False
        # A table by two builds, or by two machines of which one has a GPU, would not be the same for all.
        here = f"{secret} {gradescope.build(assignment.name)} {gpu_arch()}"
        self.rules = hashlib.sha256(here.encode()).hexdigest()
        for name in ("results", "feedback", "logs"):
            (self.out / name).mkdir(parents=True, exist_ok=True)
        for grader in self.all:
            self.graders.put(grader)

    def run(self, folder: Path, say: Callable[[Entry, int, int], None]) -> list[Entry]:
        """Grade all that has no result yet. Interrupted, it ends its graders and keeps what is done."""
        wanted, self.skipped = submissions(folder)
        unknown = self.again - {own.who for own in wanted}
        if unknown:
            raise DefinitionError(f"--again is {min(unknown)!r}; accepted: {', '.join(own.who for own in wanted)}")
        done: list[Entry] = []
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self.one, own) for own in wanted]
            try:
                for future in concurrent.futures.as_completed(futures):
                    done.append(future.result())
                    say(done[-1], len(done), len(wanted))
            except BaseException:
                self.stop()
                for future in futures:
                    future.cancel()
                raise
            finally:
                self.stop()
                self.table(sorted(done, key=lambda entry: entry.who))
        return done

    def one(self, own: Submitted) -> Entry:
        who, path = own.who, gathered(own, self.out / "gathered")
        results = self.out / "results" / f"{who}.json"
        mark = fingerprint(path) + self.rules[:16]
        data = _read(results)
        if data is not None and data["extra_data"].get("fingerprint") == mark and who not in self.again and final(data):
            return Entry(who, path, "kept", data, own.warning)
        if self.stopped:
            raise KeyboardInterrupt
        part = self.out / "results" / f".{who}.part"
        part.unlink(missing_ok=True)
        grader = self.graders.get()
        try:
            problem = grader.grade(path, part)
        finally:
            self.graders.put(grader)
        if self.stopped:
            part.unlink(missing_ok=True)
            raise KeyboardInterrupt
        data, state = _read(part), "graded"
        if data is None or not data.get("extra_data", {}).get("complete"):
            data, state = self._failed(data, problem or "the grader ended without a result"), "failed"
        data["extra_data"]["fingerprint"] = mark
        write_text(self.out / "feedback" / f"{who}.html", feedback.page(data, self.assignment.title, who))
        write_text(results, json.dumps(data, indent=1, allow_nan=False) + "\n")  # last: it is what counts as done
        part.unlink(missing_ok=True)
        return Entry(who, path, state, data, own.warning)

    def _failed(self, data: dict | None, problem: str) -> dict:
        data = data or {"score": 0.0, "tests": [], "extra_data": {}, "stdout_visibility": "hidden"}
        data["extra_data"] |= gradescope.origin(self.assignment)
        data["output"] = f"Not graded to the end: {problem}. Your instructor has been told."
        data["extra_data"] |= {"problem": problem, "points": self.assignment.points}
        return data

    def stop(self) -> None:
        self.stopped = True
        for grader in self.all:
            grader.end()

    def table(self, entries: list[Entry]) -> None:
        """grades.csv: a row each; a test that was not graded is an empty cell."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        numbers = [test.number for test in self.assignment.tests]
        writer.writerow(["submission", "score", "points", "state", "look at", *COLUMNS, "graded at", "build", *numbers])
        everybodys = ungraded_of_all(entries)
        for entry in entries:
            scores = {test["number"]: f"{test['score']:g}" for test in entry.data["tests"] if "score" in test}
            about, seen = entry.data["extra_data"], noticed(entry.data)
            look = "; ".join(to_look_at(entry, everybodys))
            state = "failed" if about.get("problem") else "graded"
            row = [_cell(entry.who), f"{entry.data['score']:g}", f"{self.assignment.points:g}", state, _cell(look)]
            row += [_cell("; ".join(seen[column])) for column in COLUMNS]
            row += [about.get("graded", ""), about.get("build", "")]
            writer.writerow([*row, *(scores.get(number, "") for number in numbers)])
        write_text(self.out / "grades.csv", text.getvalue())


# What an instructor has to see, and the statuses that it goes by.
COLUMNS = {
    "refused": ("refused",),
    "missing or unreadable": ("missing",),
    "timed out": ("time",),
    "crashed": ("crashed",),
    "out of memory": ("memory",),
    "not measured": ("not measured",),
    "not graded": ("not graded",),
}


def noticed(data: dict) -> dict[str, list[str]]:
    """Column -> the files, with what is wrong with them as a whole, and the numbers of the tests."""
    files = data["extra_data"].get("files", {})
    found: dict[str, list[str]] = {}
    for column, statuses in COLUMNS.items():
        said: dict[str, list[str]] = {}
        for name, about in files.items():
            if about["status"] in statuses:
                said.setdefault(_about_file(about), []).append(name.split("/")[1].partition("_")[0])
        found[column] = [f"{', '.join(stages)}: {text}" for text, stages in said.items()]
        tests = [test for test in data["tests"] if test.get("extra_data", {}).get("status") in statuses]
        numbers = [test["number"] for test in tests if not feedback.by_reference(test)]
        found[column] += [f"{'tests' if len(numbers) > 1 else 'test'} {', '.join(numbers)}"] if numbers else []
    return found


def _about_file(about: dict) -> str:
    """What is wrong with a file as a whole, with the first line that is named; where there is none to look at, why."""
    if about["status"] == MISSING:
        return about["message"].partition("\n")[0].rstrip(".")
    line = re.search(r"\bline \d+(: [^\n]*)?", about["message"])
    return f"{about['whole']} ({line[0]})" if line else about["whole"]


def ungraded_of_all(entries: list[Entry]) -> set[str]:
    """Tests that nobody has, as those for a GPU where there is none: to be said once, and of nobody."""
    own = [{t["number"] for t in entry.data["tests"] if "score" not in t} for entry in entries if entry.data["tests"]]
    return set.intersection(*own) if own else set()


def to_look_at(entry: Entry, everybodys: Collection[str] = ()) -> list[str]:
    """Why an instructor should look at it; empty if there is no reason. everybodys: tests that nobody was graded in."""
    reasons = [text for text in (entry.data["extra_data"].get("problem"), entry.warning) if text]
    tests = [test for test in entry.data["tests"] if test["number"] not in everybodys]
    seen = noticed(entry.data | {"tests": tests})
    reasons += [f"{column}: {'; '.join(found)}" for column, found in seen.items() if found]
    return reasons + (["score 0"] if not entry.data["score"] else [])


def final(data: dict) -> bool:
    """Whether a result stands as long as nothing changes: all was graded, and measured where there is something to."""
    about = data["extra_data"]
    measured = all(test.get("extra_data", {}).get("status") != UNMEASURED for test in data["tests"])
    return bool(about.get("complete")) and not about.get("problem") and measured


def _cell(text: str) -> str:
    """A name that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(tuple("=+-@")) else text


def end(process: subprocess.Popen) -> None:
    """First asked, so that it ends what it has started; then killed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def fingerprint(path: Path) -> str:
    """Of a submission's names and contents; links and pipes count by their names."""
    digest, left = hashlib.sha256(), HASHED_BYTES
    for file in _files(path):
        digest.update(f"\0{file.name if file == path else file.relative_to(path)}\0".encode(errors="surrogateescape"))
        if file.is_symlink() or not file.is_file() or left <= 0:
            continue
        with contextlib.suppress(OSError), file.open("rb") as opened:
            piece = opened.read(left)
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()[:32]


def _files(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for parent, folders, names in os.walk(path):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names))


def _read(path: Path) -> dict | None:
    """A results file that is one; anything else counts as none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    good = isinstance(data, dict) and not gradescope.problems(data) and isinstance(data.get("extra_data"), dict)
    return data if good else None
