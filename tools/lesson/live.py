"""What a lesson runs: a stage against the reference, its counters in the emulator, a bug planted on purpose."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from reference import Case, check
from stages import Stage, get
from stages.common.where import where
from tools.edited import edited
from tools.emulator import CompileError, Settings
from tools.emulator.run import Run, run
from tools.lesson.pieces import LessonError
from tools.lesson.shown import Shown, table

# Two ragged tiles each way, a mask, and query heads that share K and V.
TRIAL = {"headdim": 64, "seqlen_q": 113, "seqlen_k": 203, "causal": True, "nheads": 4, "nheads_k": 2}


def here(*stages: str) -> Shown:
    """Where stages run on this machine."""
    rows = [[stage.name, where(stage).reason] for stage in map(get, stages)]
    return table(["stage", "runs here on"], rows, text_columns=2)


def stage_of(stage: str | Stage) -> Stage:
    return stage if isinstance(stage, Stage) else get(stage)


def _dtype(stage: Stage) -> str:
    """float16 where the interpreter or the emulator runs it: right in both, and the kernels' first dtype."""
    return next(dtype for dtype in ("float16", *stage.capability.dtypes) if where(stage, dtype))


def try_stage(stage: str | Stage, **fields) -> Shown:
    """Run a stage where it runs here, on one case, and say how far it is from the float64 oracle, and what is allowed.

    fields: of reference.Case (headdim, seqlen_q, seqlen_k, causal, nheads, nheads_k, family, ...).
    """
    stage = stage_of(stage)
    case = Case(**{"dtype": _dtype(stage)} | TRIAL | fields)
    with np.errstate(all="ignore"):  # a planted bug may divide by zero; the verdict says what became of it
        verdict = check(stage, case)
    place = where(stage, case.dtype).reason
    label = getattr(stage, "label", stage.short)
    return Shown(f"{label} on {place}, {case}: {'right' if verdict.ok else 'WRONG'}; {verdict}")


def counted(*stages: str | Stage, names: Sequence[str] = (), **fields) -> Shown:
    """Counters of CUDA stages side by side, from the emulator, for the same inputs.

    names: the rows, of tools.emulator.Report.as_profiled (default: all that are not the same in all stages, or all).
    """
    runs = [emulated(stage, **fields) for stage in stages]
    counts = [one.report.as_profiled() for one in runs]
    rows = names or [name for name in counts[0] if len({c[name] for c in counts}) > 1] or list(counts[0])
    unknown = [name for name in rows if name not in counts[0]]
    if unknown:
        raise LessonError(f"no counter {', '.join(unknown)}; there are {', '.join(counts[0])}")
    body = [["result", *("right" if one.verdict.ok else "WRONG" for one in runs)]]
    body += [[name.replace("_", " "), *(f"{c[name]:,}" for c in counts)] for name in rows]
    if any(one.report.findings for one in runs):
        body.append(["findings", *(str(len(one.report.findings)) for one in runs)])
    return table([str(runs[0].case), *(one.label for one in runs)], body)


def emulated(stage: str | Stage, settings: Mapping | None = None, **fields) -> Run:
    """One run in the emulator, on a machine with a GPU too: its report has the counters of every line."""
    stage = stage_of(stage)
    if stage.capability.backend != "cuda":
        raise LessonError(f"{stage.name} is no CUDA stage; the emulator runs those")
    case = Case(**{"dtype": "float16"} | TRIAL | fields)
    label = getattr(stage, "label", stage.short)
    return run(label, stage, case, Settings(**(settings or {})))


def found(stage: str | Stage, **fields) -> Shown:
    """What is wrong with a stage or a planted one, in the emulator's words: in every order of threads that it has, and
    with copies that land early and late. Or where it does not compile, the compiler's."""
    said: dict[str, None] = {}
    for schedule, asynchronous in (("forward", "late"), ("reverse", "early"), ("interleave", "late")):
        try:
            one = emulated(stage, {"schedule": schedule, "asynchronous": asynchronous}, **fields)
        except CompileError as error:
            return Shown(f"does not compile:\n\n```\n{str(error)[:1500]}\n```")
        said |= dict.fromkeys(f"{f.kind}: {f.message}" for f in one.report.findings)
        if not one.verdict.ok and not one.report.findings:
            said.setdefault(f"wrong result, though every access was in order: {one.verdict}")
    shown = list(said)[:6] + ([f"… and {len(said) - 6} more"] if len(said) > 6 else [])
    return Shown("\n".join(f"- {line}" for line in shown) or "right, and nothing was found")


@functools.cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="lesson-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def planted(
    stage: str, *changes: tuple[str, str], label: str | None = None, shared_bytes: Callable[[int], int] | None = None
) -> Stage:
    """A stage whose kernel differs from the stage's own in these (old, new) pieces of text; the files stay as they are.

    shared_bytes: of a block of a CUDA stage, by head dim, where the change takes more than the stage.
    Raises LessonError where an old text does not stand exactly once."""
    own = get(stage)
    text = own.kernel_file.read_text(encoding="utf-8")
    for old, new in changes:
        if text.count(old) != 1:
            raise LessonError(f"{own.name}'s kernel has {old!r} {text.count(old)} times; accepted: exactly once")
        text = text.replace(old, new)
    path = _folder() / f"{own.short}-{zlib.crc32(text.encode()):x}{own.kernel_file.suffix}"
    path.write_text(text, encoding="utf-8")
    made = edited(own, path, shared_bytes)
    object.__setattr__(made, "label", label or f"{own.short}, changed")  # the record is frozen
    return made


def compiled(*stages: str | Stage, headdim: int = 128, causal: bool = False) -> Shown:
    """Registers, spills and instructions of the loop over K/V tiles, compiled now for sm_90a; needs NVRTC, no GPU."""
    from tools.sass import mix
    from tools.sass.records import instantiations, measure

    disassembler = mix.find_disassembler()
    records = []
    for stage in map(stage_of, stages):
        one = instantiations(stage, disassembler, arch="90a", headdim=headdim, causal=causal, dtype="bfloat16")
        records.append(measure(one[0]))
    loops = [mix.families(record["loop"]) for record in records]
    rows = [[name, *(str(record[name]) for record in records)] for name in ("registers", "spill")]
    rows += [[family, *(str(loop[family]) for loop in loops)] for family in loops[0] if any(x[family] for x in loops)]
    labels = [getattr(stage, "label", stage.short) for stage in map(stage_of, stages)]
    return table([f"d{headdim}{', causal' if causal else ''}, sm_90a", *labels], rows)
