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
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.assignment import descendants, feedback, gradescope
from tools.assignment.definition import ROOT, Assignment
from tools.assignment.grading import grade, worker_for
from tools.results import write_text

GRACE_S = 90  # beyond the assignment's time, before a grader is ended
HASHED_BYTES = 64 << 20  # of a submission, to know it again


@dataclass(frozen=True)
class Entry:
    """One submission: who is its file or folder name; state: "graded", "kept" (from an earlier run) or "failed"."""

    who: str
    path: Path
    state: str
    data: dict


def submissions(folder: Path) -> list[tuple[str, Path]]:
    """Every folder, zip or other file in `folder`, by name; a name that two share gets its ending."""
    paths = sorted(p for p in Path(folder).iterdir() if not p.name.startswith("."))
    stems = [p.stem if p.is_file() or p.is_symlink() else p.name for p in paths]
    return [(s if stems.count(s) == 1 else p.name, p) for s, p in zip(stems, paths)]


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
    """out/results/WHO.json, out/feedback/WHO.html, out/grades.csv."""

    def __init__(self, assignment: Assignment, secret: str, out: Path, jobs: int):
        self.assignment, self.secret, self.out, self.jobs = assignment, secret, Path(out), jobs
        self.graders: queue.SimpleQueue[Grader] = queue.SimpleQueue()
        self.all = [Grader(assignment, secret, self.out / "logs" / f"grader{i}.txt") for i in range(jobs)]
        self.stopped = False
        self.rules = hashlib.sha256((assignment.folder / "assignment.toml").read_bytes() + secret.encode()).hexdigest()
        for name in ("results", "feedback", "logs"):
            (self.out / name).mkdir(parents=True, exist_ok=True)
        for grader in self.all:
            self.graders.put(grader)

    def run(self, folder: Path, say: Callable[[Entry, int, int], None]) -> list[Entry]:
        """Grade all that has no result yet. Interrupted, it ends its graders and keeps what is done."""
        wanted = submissions(folder)
        done: list[Entry] = []
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self.one, who, path) for who, path in wanted]
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

    def one(self, who: str, path: Path) -> Entry:
        results = self.out / "results" / f"{who}.json"
        mark = fingerprint(path) + self.rules[:16]
        data = _read(results)
        if data is not None and data.get("extra_data", {}).get("fingerprint") == mark:
            return Entry(who, path, "kept", data)
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
        return Entry(who, path, state, data)

    def _failed(self, data: dict | None, problem: str) -> dict:
        data = data or {"score": 0.0, "tests": [], "extra_data": {}, "stdout_visibility": "hidden"}
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
        writer.writerow(["submission", "score", "points", "state", *numbers])
        for entry in entries:
            scores = {test["number"]: f"{test['score']:g}" for test in entry.data["tests"] if "score" in test}
            problem = entry.data["extra_data"].get("problem", "")
            state = f"to look at: {problem}" if problem else "graded"
            row = [_cell(entry.who), f"{entry.data['score']:g}", f"{self.assignment.points:g}", state]
            writer.writerow([*row, *(scores.get(number, "") for number in numbers)])
        write_text(self.out / "grades.csv", text.getvalue())


def _cell(text: str) -> str:
    """A name that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in "=+-@" else text


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
    return data if isinstance(data, dict) and not gradescope.problems(data) else None
