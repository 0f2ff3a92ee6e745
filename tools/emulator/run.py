"""A stage's kernel, or an edited copy of it, run once in the emulator and judged: what the commands show."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reference import Case, Verdict, check
from stages.common.record import Stage
from tools.emulator.listing import efficiency, totals
from tools.emulator.report import Report, Site
from tools.emulator.session import Settings, emulate


@dataclass(frozen=True)
class Run:
    """label: what the user calls the kernel; source: of it; report: of its launch, or of its launches together."""

    label: str
    stage: Stage
    source: str
    case: Case
    settings: Settings
    report: Report
    verdict: Verdict

    @property
    def ok(self) -> bool:
        """The result is right, and nothing was found."""
        return self.verdict.ok and not self.report.findings


@contextlib.contextmanager
def in_emulator() -> Iterator[None]:
    """CUDA stages run in the emulator, on a machine with a GPU too."""
    before = os.environ.get("CUDA_EMULATE")
    os.environ["CUDA_EMULATE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_EMULATE"]
        else:
            os.environ["CUDA_EMULATE"] = before


def run(label: str, stage: Stage, case: Case, settings: Settings) -> Run:
    """Run `case` on a CUDA stage under `settings` and judge the result; findings are in the report, not raised.

    Raises CompileError for a kernel that does not compile, ValueError for a case that the stage does not take.
    """
    source = stage.kernel_file.read_text(encoding="utf-8")
    with in_emulator(), emulate(raises=False, **dataclasses.asdict(settings)) as session:
        verdict = check(stage, case)
    return Run(label, stage, source, case, settings, together(session.reports), verdict)


def together(reports: Sequence[Report]) -> Report:
    """The launches of one call as one report: counters of a line are added up."""
    if len(reports) == 1:
        return reports[0]
    sites: dict[tuple, Site] = {}
    for site in (site for report in reports for site in report.sites):
        key = (site.file, site.line, site.op, site.bytes_per_lane)
        sites[key] = _sum(sites[key], site) if key in sites else site
    return Report(
        ", ".join(report.kernel for report in reports),
        tuple(sites[key] for key in sorted(sites)),
        tuple(finding for report in reports for finding in report.findings),
        sum(report.switches for report in reports),
        sum(report.seconds for report in reports),
        tuple(trace for report in reports for trace in report.traces),
    )


def _sum(a: Site, b: Site) -> Site:
    added = ("instructions", "lanes", "passes", "wavefronts", "bytes", "sectors", "ideal_sectors")
    sums = {name: getattr(a, name) + getattr(b, name) for name in added}
    return dataclasses.replace(a, ways=max(a.ways, b.ways), **sums)


def as_data(run: Run) -> dict:
    """Everything of a run but its source, for JSON."""
    verdict = {"ok": run.verdict.ok, "problem": run.verdict.problem}
    for name in ("error", "bound", "lse_error"):  # NaN and infinities are no JSON
        value = getattr(run.verdict, name)
        verdict[name] = value if math.isfinite(value) else str(value)
    report = dataclasses.asdict(run.report)
    for site, counted in zip(report["sites"], run.report.sites):
        site["conflicts"] = counted.conflicts
    return {
        "kernel": run.label,
        "stage": run.stage.name,
        "case": dataclasses.asdict(run.case),
        "settings": dataclasses.asdict(run.settings),
        "verdict": verdict,
        "totals": totals(run.report),
        "efficiency": efficiency(run.report),
        "report": report,
    }
