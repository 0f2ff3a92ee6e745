"""What was measured, from docs/results alone: nothing here runs a kernel."""

from __future__ import annotations

import functools

from stages import get
from tools.diff import gains
from tools.figures import Data, FigureError, figure, ratio, speedup, tflops, three_digits
from tools.lesson.pieces import LessonError
from tools.lesson.shown import Shown, table
from tools.results import NoData
from tools.sass import mix
from tools.sass import records as machine_code


@functools.cache
def _data() -> Data:
    from tools import inject

    return inject.committed()


def quoted(kind: str, **keys: str) -> str:
    """One figure, as the documents quote it: quoted("speedup", stage="s21", over="s20", headdim="128", seqlen="4k").

    Kinds and keys are those of `python -m tools.inject --help`. Raises LessonError for what was not recorded.
    """
    try:
        return figure(_data(), kind, keys)
    except FigureError as problem:
        raise LessonError(str(problem)) from None


def measured(*stages: str, seqlen: int = 4096) -> Shown:
    """Throughput of stages on the grid's heads at one length, each against the one before, and against PyTorch's
    FlashAttention-2 over the lengths 1k to 16k; device and date from the data."""
    shapes = [(d, causal) for d in (64, 128) for causal in (False, True)]
    header = ["", *(f"d{d}{', causal' if causal else ''}" for d, causal in shapes)]
    rows = []
    data = _data()
    for i, name in enumerate(get(stage).name for stage in stages):
        where = [{"headdim": d, "causal": causal} for d, causal in shapes]
        try:
            speeds = [tflops(data, name, seqlen=seqlen, **w).removesuffix(" TFLOP/s") for w in where]
            rows.append([f"{get(name).short}, TFLOP/s at {seqlen}", *speeds])
            if i:
                before = get(stages[i - 1]).name
                against = [speedup(data, name, before, seqlen=seqlen, **w) for w in where]
                rows.append([f"{get(name).short} against {get(before).short}", *against])
            rows.append(
                [f"{get(name).short} against FA2, 1k to 16k", *(ratio(data, name, "torch_fa2", **w) for w in where)]
            )
        except NoData as problem:
            raise LessonError(str(problem)) from None
    shown = table(header, rows)
    return Shown(f"{shown.markdown}\n\n{quoted('device')}, bf16.")


def bought(old: str, new: str, *groups: str) -> Shown:
    """What the step from `old` to `new` bought, as `python -m tools.diff` lists it: groups of "time", "memory",
    "counters", "resources", "loop" (default: all). Rows in which nothing changed are left out of the last three."""
    made = gains.bought(get(old), get(new))
    wanted = groups or (gains.TIME, gains.MEMORY, gains.HARDWARE, gains.RESOURCES, gains.LOOP)
    parts = []
    for group in wanted:
        mine = [gain for gain in made if gain.group == group and gain.verdict != gains.MISSING]
        quiet = group in (gains.HARDWARE, gains.RESOURCES, gains.LOOP)
        rows = [[g.name, g.old, g.new, g.change, g.note] for g in mine if not (quiet and g.verdict == gains.NONE)]
        if not rows:
            continue
        header = ["", get(old).short, get(new).short, "change", ""]
        if not any(row[-1] for row in rows):
            header, rows = header[:-1], [row[:-1] for row in rows]
        parts.append(f"{mine[0].title}:\n\n{table(header, rows).markdown}")
    if not parts:
        raise LessonError(f"nothing is recorded of {', '.join(wanted)} from {old} to {new}")
    return Shown("\n\n".join(parts))


def instructions(stage: str, *families: str, headdim: int = 128, causal: bool = False) -> dict[str, int]:
    """How often instructions of these families stand in the loop over K/V tiles of the machine code for sm_90a.

    families: HMMA, LDSM, FFMA, FMUL, MUFU, IADD3, LOP3, MOV …; none: all that there are.
    """
    documents = [machine_code.load(machine_code.path_of(get(stage)))]
    record = machine_code.find(documents, get(stage).name, arch="90a", headdim=headdim, causal=causal, dtype="bfloat16")
    counted = mix.families(record["loop"])
    unknown = [family for family in families if family not in counted]
    if unknown:
        raise LessonError(f"no family {', '.join(unknown)}; there are {', '.join(counted)}")
    return {family: counted[family] for family in families or counted}


__all__ = ["bought", "instructions", "measured", "quoted", "three_digits"]
