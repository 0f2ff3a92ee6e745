"""What all tests share: the choice of grid, one thread a worker, the mutants' table at the end of a run."""

from __future__ import annotations

import collections
import os
import zlib

# Before torch and NumPy load: the workers of `-n auto` already fill the machine.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import pytest

from reference import Case
from stages import STAGES, Stage
from stages.common import interpreter  # noqa: F401  before Triton, whoever imports it
from stages.common.where import Where, gpu_arch, installed, where

needs_nvrtc = pytest.mark.skipif(not installed("cupy"), reason="needs CuPy and NVRTC, which are not installed")


def pytest_addoption(parser):
    parser.addoption(
        "--grid",
        choices=("quick", "full"),
        default=None,
        help="the cases of tests/test_stages.py: quick, every pair of values of two axes; full, their product "
        "too. Default: full on a machine with a GPU, quick without.",
    )


def pytest_configure(config):
    import torch

    torch.set_num_threads(1)
    if config.getoption("--grid") is None:
        config.option.grid = "full" if gpu_arch() is not None else "quick"


def place_or_skip(stage: Stage, dtype: str | None = None) -> Where:
    """Where `stage` runs here; skips the test, with the true reason, when it does not."""
    place = where(stage, dtype)
    if not place:
        pytest.skip(f"{stage.name}: {place.reason}")
    return place


def dtypes_here(stage: Stage) -> tuple[str, ...]:
    """The dtypes in which `stage` runs on this machine."""
    return tuple(dtype for dtype in stage.capability.dtypes if where(stage, dtype))


@pytest.fixture(autouse=True)
def varied_emulation(request):
    """In the emulator every test runs in its own order of threads, and asynchronous copies land late in one half of the
    tests and early in the other: always the same for a test of the same name."""
    from tools.emulator import SCHEDULES, emulate

    number = zlib.crc32(request.node.name.encode())
    with emulate(asynchronous=("late", "early")[number % 2], schedule=SCHEDULES[number // 2 % 4]) as session:
        yield session


@pytest.fixture(params=STAGES, ids=lambda stage: stage.short)
def stage(request) -> Stage:
    """Every stage in turn, whether it runs here or not."""
    return request.param


@pytest.fixture
def runnable(stage) -> Stage:
    """Every stage that runs here; the others are skipped with their reason."""
    place_or_skip(stage)
    return stage


@pytest.fixture
def small(runnable):
    """small(**fields): a case with two ragged tiles that the stage takes here, and its inputs on its device."""

    def make(**fields):
        fields = {"dtype": dtypes_here(runnable)[0], "headdim": 16, "seqlen_q": 70, "seqlen_k": 80} | fields
        case = Case(**fields)
        return case, case.inputs(where(runnable, case.dtype).device)

    return make


UNKILLED = ("survived", "not run")  # else it says by which case
MUTANT = "mutant"  # the user property under which a mutant's test reports (mutant, stage, what, killed by, how)


def pytest_terminal_summary(terminalreporter):
    """The table of mutants; in a run of other tests too, one line of it."""
    reports = [r for key in ("passed", "failed", "skipped") for r in terminalreporter.stats.get(key, [])]
    rows = {tuple(value) for report in reports for name, value in report.user_properties if name == MUTANT}
    if not rows:
        return
    if any("test_mutants" not in report.nodeid for report in reports):
        fates = collections.Counter(killed_by if killed_by in UNKILLED else "killed" for *_, killed_by, _ in rows)
        said = ", ".join(f"{count} {fate}" for fate, count in sorted(fates.items()))
        terminalreporter.write_line(f"Mutants: {said}. `make mutants` lists them.")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("mutant", "stage", "what is planted", box=box.SIMPLE, title="Mutants")
    table.add_column("killed by", overflow="fold")
    table.add_column("how")
    for name, stage_name, what, killed_by, how in sorted(rows, key=lambda row: (row[1], row[0])):
        table.add_row(name, stage_name.partition("_")[0], what, killed_by, how)
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(table)
    terminalreporter.write_line("")
    terminalreporter.write(capture.get())
