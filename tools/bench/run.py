"""A whole run: a list of shapes, measured one after the other into one results file.

A shape is measured wholly in one run and written when it is done, so an interrupted run keeps every
finished shape, and running the same command again goes on with the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from stages.common.record import Stage
from tools import results
from tools.bench.measure import Effort, measure
from tools.bench.shapes import Shape


@dataclass(frozen=True)
class Job:
    """One shape on one device, and who is timed there."""

    shape: Shape
    stages: tuple[Stage, ...]
    peers: tuple[str, ...]
    device: object  # devices.Gpu or devices.Host
    dtype: torch.dtype
    effort: Effort = Effort()

    @property
    def names(self) -> set[str]:
        return {stage.name for stage in self.stages} | set(self.peers)

    @property
    def case(self) -> tuple:
        """As `results.case_of`: what a record of this job has."""
        s = self.shape
        sizes = (s.batch, s.nheads, s.nheads_k, s.seqlen_q, s.seqlen_k, s.headdim, s.causal)
        return (self.device.name, str(self.dtype).removeprefix("torch."), "fwd", *sizes)


@dataclass
class ResultsFile:
    """The results file that a run fills."""

    path: Path
    environment: dict
    runs: dict[str, dict] = field(default_factory=dict)
    records: list[dict] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, environment: dict, *, fresh: bool = False) -> ResultsFile:
        """What is there already, unless `fresh`. Raises ResultsError for a damaged file, OSError for a
        folder that cannot be made."""
        file = cls(path, environment)
        if path.exists() and not fresh:
            there = results.load(path)
            file.runs, file.records = dict(there.runs), list(there.records)
            file.runs.setdefault(there.environment["date"], there.environment)
        return file

    def has(self, job: Job) -> bool:
        """Whether some one run has everything of `job`, no stage of it failed."""
        by_run: dict[str, set[str]] = {}
        for record in self.records:
            failed_stage = record["kind"] == "stage" and not results.is_timed(record)
            if results.case_of(record) == job.case and not failed_stage:
                by_run.setdefault(record["run"], set()).add(record["name"])
        return any(job.names <= names for names in by_run.values())

    def add(self, job: Job, records: list[dict]) -> None:
        """Add a job's records and write the file. An older run of the same shape goes, if the new one has
        all that it had; otherwise it stays whole, as ratios pair records of one run."""
        run = self.environment["date"]
        older: dict[str, set[str]] = {}
        for record in self.records:
            if results.case_of(record) == job.case:
                older.setdefault(record["run"], set()).add(record["name"])
        replaced = {r for r, names in older.items() if names <= job.names}
        self.records = [
            record for record in self.records if not (results.case_of(record) == job.case and record["run"] in replaced)
        ]
        self.records += [{**record, "run": run} for record in records]
        self.runs[run] = self.environment
        results.save(self.path, self.environment, self.runs, self.records)


def run(
    jobs: Sequence[Job],
    file: ResultsFile,
    progress: Callable[[Job, str], None] = lambda job, what: None,
    finished: Callable[[Job, list[dict]], None] = lambda job, records: None,
) -> None:
    """Measure every job that `file` does not have yet, and write the file after each.

    An interrupt or DeviceLost passes through; what was finished before it is in the file.
    """
    for job in jobs:
        if not file.has(job):
            say = functools.partial(progress, job)
            records = measure(job.shape, job.stages, job.peers, job.device, job.dtype, job.effort, say)
            file.add(job, records)
            finished(job, records)


def newest_of(jobs: Sequence[Job], records: Sequence[dict]) -> list[dict]:
    """The records of the jobs' shapes: of each, those of the newest run that has everything the job asks
    for."""
    chosen = []
    for job in jobs:
        of_case: dict[str, list[dict]] = {}
        for record in records:
            if results.case_of(record) == job.case and record["name"] in job.names:
                of_case.setdefault(record["run"], []).append(record)
        complete = [r for r, found in of_case.items() if {record["name"] for record in found} == job.names]
        if complete:
            chosen += of_case[max(complete)]
    return chosen
