"""Grading one submission: every test in a process of its own, results handed on after each."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.common.where import gpu_arch
from tools.assignment import submission
from tools.assignment.allowed import refusals
from tools.assignment.definition import ROOT, Assignment, DefinitionError, Test
from tools.assignment.kinds import (
    CRASHED,
    KINDS,
    MEMORY,
    MISSING,
    NO_SCORE,
    REFUSED,
    TIME,
    UNGRADED,
    UNMEASURED,
    Context,
    Failed,
    Outcome,
    sentence,
    undefined,
)
from tools.assignment.process import Worker
from tools.assignment.tree import for_worker

KERNEL = "attention_kernel"  # what the frame launches of a CUDA stage
SPARE_S = 20  # of the time limit, for what is not a test
GPU_HOST_MB = 12_000  # of the host, beside what a stage takes there: libraries that begin with the first use of a GPU


@dataclass(frozen=True)
class Graded:
    """One test and what became of it."""

    test: Test
    outcome: Outcome
    seconds: float

    @property
    def score(self) -> float | None:
        """None: not graded."""
        if self.outcome.status in NO_SCORE:
            return None
        return self.test.points if self.outcome.ok else 0


@dataclass(frozen=True)
class Grades:
    """The tests of one submission so far, in the definition's order; note: about the submission as a whole."""

    assignment: Assignment
    graded: tuple[Graded, ...]
    seconds: float
    note: str = ""

    @property
    def wholes(self) -> dict[str, Outcome]:
        """File -> what is wrong with it as a whole: the first test's outcome that says so."""
        found: dict[str, Outcome] = {}
        for g in self.graded:
            if g.outcome.whole:
                found.setdefault(file_of(self.assignment, g.test), g.outcome)
        return found

    @property
    def score(self) -> float:
        return sum(g.score or 0 for g in self.graded)

    @property
    def complete(self) -> bool:
        return len(self.graded) == len(self.assignment.tests)


def grade(
    assignment: Assignment,
    path: Path,
    secret: str,
    *,
    after_each: Callable[[Grades], None] = lambda grades: None,
    select: Callable[[Test], bool] = lambda test: True,
    static: bool = True,
    worker: Worker | None = None,
    root: Path = ROOT,
) -> Grades:
    """Grade the submission at `path`. after_each: gets the grades so far, after every test.

    select: the tests to run; the others are not in the result.
    static: False leaves out the check of what the files may say, as tests of the other layers need it.
    worker: one from `worker_for`, which then serves several submissions, one after the other; None: one for this.
    """
    if worker is None:
        with worker_for(assignment, root) as own:
            options = {"after_each": after_each, "select": select, "static": static, "root": root}
            return grade(assignment, path, secret, worker=own, **options)
    start = time.monotonic()
    try:
        found = submission.read(assignment, path)
    except submission.SubmissionError as error:
        found = submission.Found({}, {name: str(error) for name in assignment.submitted})
    for name in assignment.submitted:
        (worker.tree / name).unlink(missing_ok=True)
    for name, text in found.files.items():
        (worker.tree / name).write_text(text, encoding="utf-8")
    wholes = whole_files(assignment, found, static)
    graded: list[Graded] = []
    for test in filter(select, assignment.tests):
        began = time.monotonic()
        gate = next((g.outcome for g in graded if g.test.number == test.only_if), None)
        if file_of(assignment, test) in wholes:
            outcome = wholes[file_of(assignment, test)]
        elif gate is not None and gate.status in (MEMORY, REFUSED):
            outcome = gated(test, gate)
        else:
            left = assignment.minutes * 60 - SPARE_S - (began - start)
            failed = any(g.test.stage is test.stage and not g.outcome.ok for g in graded)
            outcome = _outcome(assignment, test, worker, secret, found, left, failed)
        graded.append(Graded(test, outcome, time.monotonic() - began))
        after_each(Grades(assignment, tuple(graded), time.monotonic() - start, found.note))
    return Grades(assignment, tuple(graded), time.monotonic() - start, found.note)


@contextlib.contextmanager
def worker_for(assignment: Assignment, root: Path = ROOT) -> Iterator[Worker]:
    """A process in which submissions to the assignment run, and the tree that it runs in."""
    torch.set_num_threads(1)  # the cases are small, and other graders run beside this one
    tree = Path(tempfile.mkdtemp(prefix="submission-"))
    try:
        for_worker(assignment, tree, root)
        preload = ["triton"] if any(s.capability.backend == "triton" for s in assignment.stages) else []
        with Worker(tree, memory_mb=assignment.memory_mb, preload=preload) as worker:
            yield worker
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def file_of(assignment: Assignment, test: Test) -> str:
    return assignment.submitted[assignment.stages.index(test.stage)]


def gated(test: Test, gate: Outcome) -> Outcome:
    """Of a test that depends on another one, which has found a fake."""
    causes = gate.causes or (gate.message.partition("\n")[0],)
    return Outcome(
        REFUSED, sentence(f"0 points, because of test {test.only_if}, see there: {causes[0]}"), causes=causes
    )


def whole_files(assignment: Assignment, found: submission.Found, static: bool) -> dict[str, Outcome]:
    """File -> why nothing of it can be graded, as far as that shows before it is run. static: as in `grade`."""
    wholes = {}
    for stage, name in zip(assignment.stages, assignment.submitted):
        if name not in found.files:
            absent = found.problems[name].endswith("is missing from the submission")
            whole = "it is missing" if absent else "it cannot be read"
            wholes[name] = Outcome(MISSING, sentence(found.problems[name]), whole=whole)
        elif not found.files[name].strip():
            wholes[name] = Outcome(MISSING, "The file is empty.", whole="it is empty")
        elif static and (text := _refused(stage, found.files[name], assignment.accept)):
            wholes[name] = Outcome(REFUSED, text, whole="it is refused")
        elif _without_kernel(stage, found.files[name]):
            wholes[name] = Outcome(CRASHED, f"{undefined(KERNEL)}.", whole=undefined(KERNEL))
    return wholes


def _without_kernel(stage, text: str) -> bool:
    """Whether it is a file of CUDA that has no attention kernel, for which the compiler has only riddles."""
    bare = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    return stage.capability.backend == "cuda" and not re.search(rf"\b{KERNEL}\b", bare)


def _refused(stage, text: str, accept: tuple[str, ...]) -> str:
    """Why the file is refused, or ""."""
    found = refusals(stage, text, accept)
    if not found:
        return ""
    shown = "\n".join(f"  {refusal}" for refusal in found[:5])
    more = f"\n  and {len(found) - 5} more" if len(found) > 5 else ""
    return f"The file says what an assignment may not say:\n{shown}{more}"


def _outcome(assignment, test: Test, worker: Worker, secret: str, found, left: float, failed: bool) -> Outcome:
    name = file_of(assignment, test)
    if test.needs == "gpu" and gpu_arch() is None:
        return Outcome(UNGRADED, "Not graded here: only a GPU can show it, and there is none.")
    if left < test.seconds:
        return Outcome(TIME, f"Not run: the tests before it used up the {assignment.minutes:g} minutes.")
    try:
        if test.needs == "gpu":
            memory_mb = assignment.memory_mb + GPU_HOST_MB
            with alone_on_gpu(), Worker(worker.tree, memory_mb=memory_mb, gpu=True) as own:
                return KINDS[test.kind](Context(assignment, test, own, secret, found.files[name], failed))
        with without_gpu():
            return KINDS[test.kind](Context(assignment, test, worker, secret, found.files[name], failed))
    except Failed as failed:
        return failed.outcome
    except DefinitionError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError):  # what came back was not as a worker writes it
        text = "Not measured: what the process with the submission gave back cannot be read."
        return Outcome(UNMEASURED, text, (traceback.format_exc(),))


@contextlib.contextmanager
def alone_on_gpu() -> Iterator[None]:
    """Within, no other grader of this user's is here: two kernels timed at once slow each other."""
    import fcntl

    with open(Path(tempfile.gettempdir()) / f"grading-on-gpu-{os.getuid()}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system lets go of it when this process ends, however that may be
        yield


@contextlib.contextmanager
def without_gpu() -> Iterator[None]:
    """Within, stages run as on a machine that has no GPU: what a test says must not depend on the grader's machine."""
    before = {name: os.environ.get(name) for name in ("CUDA_EMULATE", "TRITON_INTERPRET")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
