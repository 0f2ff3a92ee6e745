"""The committed measurements that pictures are drawn from: those of one device."""

from __future__ import annotations

from tools import results
from tools.figures import load_profile
from tools.plot import charts


def sheet(device: str | None = None) -> charts.Sheet:
    """The records in docs/results of one GPU, and those of the NumPy stages beside it. device: a part of its name.

    Where several answer: the one with the most stages. Raises NoData where none does, ResultsError for a damaged file.
    """
    files = [results.load(path) for path in results.committed()]
    wanted = (device or "").lower()
    found = [one for one in charts.sheets(files) if one.gpu and wanted in one.device.lower()]
    if not found:
        raise results.NoData(f"no results of a GPU{f' called {device!r}' if device else ''} in {results.RESULTS_DIR}")
    return max(found, key=lambda one: len({record["name"] for record in one.gpu}))


def of_shape(sheet: charts.Sheet, *, headdim: int, causal: bool, seqlen: int) -> dict[str, dict]:
    """The newest record of every name at one shape of the grid, in the ladder's order: stages, then peers.

    All of one dtype, that of most records. Raises NoData where there is none.
    """
    records = charts._newest(charts._main_dtype(sheet.gpu)) if sheet.gpu else []
    there = [r for r in records if (r["headdim"], r["causal"], r["seqlen_q"]) == (headdim, causal, seqlen)]
    if not there:
        mask = "causal" if causal else "not causal"
        raise results.NoData(f"{sheet.device} has no results of head dim {headdim}, {mask}, seqlen {seqlen}")
    return {name: next(r for r in there if r["name"] == name) for name in charts._names(there)}


def profiles(device: str) -> list[dict]:
    """What a device's hardware counters said: the records of tools.profile in docs/results/profile."""
    paths = sorted((results.RESULTS_DIR / "profile").glob("*.json"))
    return [one for path in paths for one in load_profile(path) if one["device"] == device]


def short(device: str) -> str:
    """As a sentence names it: "H200"."""
    return device.removeprefix("NVIDIA ")
