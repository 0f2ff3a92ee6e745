"""What a Triton stage asks of global memory, recorded in Triton's interpreter: every load, store and barrier of every
program, in order.

The interpreter runs one program after the other and a whole block at a time, so it knows nothing of threads, caches or
speed. It does know what each program asks for: which rows of which tensor, and how many bytes behind its masks.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from reference import Case, check
from stages import Stage, get
from tools.edited import edited
from tools.lesson.live import TRIAL, stage_of
from tools.lesson.pieces import LessonError
from tools.lesson.shown import Shown, table
from tools.results import ROOT

# Which dimension of a kernel's tensor counts positions of the sequence.
SEQUENCE = {"Q": 1, "K": 1, "V": 1, "Out": 1, "Acc": 2, "M": 2, "L": 2, "Lse": 2}
TINY = {
    "dtype": "float16", "headdim": 16, "seqlen_q": 128, "seqlen_k": 192, "causal": False, "nheads": 1, "nheads_k": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Access:
    """program: its place in the grid; kind: "load", "store" or "barrier"; name: the kernel's parameter; row: the first
    position of the sequence; size: bytes, masked elements left out."""

    program: tuple[int, ...]
    kind: str
    name: str = ""
    row: int = 0
    size: int = 0


@dataclass(frozen=True)
class Recording:
    """ok, said: the verdict on the result. accesses: in the order in which the programs were run."""

    label: str
    ok: bool
    said: str
    accesses: tuple[Access, ...]

    @property
    def programs(self) -> int:
        return len({access.program for access in self.accesses})

    def bytes_of(self, kind: str, name: str) -> int:
        return sum(a.size for a in self.accesses if a.kind == kind and a.name == name)

    @property
    def total(self) -> int:
        return sum(access.size for access in self.accesses)


def traced(stage: str | Stage, **fields) -> Recording:
    """Run a Triton stage on one case in the interpreter, on a machine with a GPU too. fields: of reference.Case.

    Raises LessonError for a stage that is not Triton's.
    """
    stage = stage_of(stage)
    if stage.capability.backend != "triton":
        raise LessonError(f"{stage.name} is no Triton stage; Triton's interpreter runs those")
    fields = {"dtype": "float16"} | TRIAL | fields
    label = getattr(stage, "label", stage.short)
    from stages.common import interpreter

    if interpreter.INTERPRETING:
        return _record(stage, label, fields)
    # Triton decides once a process whether it compiles or interprets.
    asked = json.dumps([stage.name, str(stage.kernel_file), label, fields])
    command = [sys.executable, "-m", "tools.lesson.interpreted", asked]
    run = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise LessonError(f"{label} in Triton's interpreter: {run.stderr.strip()}")
    answer = json.loads(run.stdout.splitlines()[-1])
    accesses = tuple(Access(**a | {"program": tuple(a["program"])}) for a in answer.pop("accesses"))
    return Recording(accesses=accesses, **answer)


def _record(stage: Stage, label: str, fields: dict) -> Recording:
    stage.attention  # noqa: B018  imports Triton, as an interpreter
    with _watched() as accesses:
        verdict = check(stage, Case(**fields))
    return Recording(label, verdict.ok, str(verdict), tuple(accesses))


@contextlib.contextmanager
def _watched() -> Iterator[list[Access]]:
    """The interpreter's own functions, wrapped: arguments as they come to a launch, then loads, stores, barriers."""
    import numpy as np
    from triton.runtime.interpreter import GridExecutor, interpreter_builder

    accesses: list[Access] = []
    tensors: dict[str, object] = {}

    def arguments(executor, args, kwargs):
        hosts = own["_init_args_hst"](executor, args, kwargs)
        tensors.clear()
        for name, value in {**dict(zip(executor.arg_names, hosts[0], strict=False)), **hosts[1]}.items():
            value = getattr(value, "base", value)  # of a tensor descriptor
            if hasattr(value, "data_ptr"):
                tensors[name] = value
        return hosts

    def note(kind, ptrs, mask):
        taken = np.broadcast_to(mask.data, ptrs.data.shape)
        addresses = ptrs.data[taken]
        if addresses.size:
            first = int(addresses.min())
            name, tensor = _tensor_at(tensors, first)
            row = _row(name, tensor, first)
            accesses.append(Access(interpreter_builder.grid_idx, kind, name, row, addresses.size * tensor.itemsize))

    def load(ptrs, mask, *rest, **options):
        note("load", ptrs, mask)
        return own["create_masked_load"](ptrs, mask, *rest, **options)

    def store(ptrs, value, mask, *rest, **options):
        note("store", ptrs, mask)
        return own["create_masked_store"](ptrs, value, mask, *rest, **options)

    def barrier(*rest, **options):
        accesses.append(Access(interpreter_builder.grid_idx, "barrier"))
        return own["create_barrier"](*rest, **options)

    own = {"_init_args_hst": GridExecutor._init_args_hst}
    watches = {"create_masked_load": load, "create_masked_store": store, "create_barrier": barrier}
    GridExecutor._init_args_hst = arguments
    for name, watch in watches.items():
        own[name] = getattr(interpreter_builder, name)
        setattr(interpreter_builder, name, watch)
    try:
        yield accesses
    finally:
        GridExecutor._init_args_hst = own["_init_args_hst"]
        for name in watches:
            delattr(interpreter_builder, name)


def _tensor_at(tensors: dict, address: int):
    for name, tensor in tensors.items():
        first = tensor.data_ptr()
        last = first + tensor.itemsize * sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        if first <= address <= last:
            return name, tensor
    raise LessonError(f"an access outside of every tensor: address {address:#x}")


def _row(name: str, tensor, address: int) -> int:
    """The index along the sequence of the element there."""
    rest = (address - tensor.data_ptr()) // tensor.itemsize
    wanted = SEQUENCE.get(name, 0)
    for dim in sorted(range(tensor.ndim), key=lambda dim: -tensor.stride(dim)):
        if tensor.shape[dim] > 1:
            index, rest = divmod(rest, tensor.stride(dim))
            if dim == wanted:
                return index
    return 0


def asked(*stages: str | Stage, **fields) -> Shown:
    """What Triton stages ask of global memory for the same inputs, side by side: programs, and bytes by tensor."""
    runs = [traced(stage, **fields) for stage in stages]
    keys = list(dict.fromkeys((a.kind, a.name) for run in runs for a in run.accesses if a.size))
    keys.sort(key=lambda key: (key[0], list(SEQUENCE).index(key[1]) if key[1] in SEQUENCE else len(SEQUENCE)))
    body = [["result", *("right" if run.ok else "WRONG" for run in runs)]]
    body.append(["programs", *(str(run.programs) for run in runs)])
    for kind, name in keys:
        body.append([f"{kind}s of {name}, bytes", *(f"{run.bytes_of(kind, name):,}" for run in runs)])
    body.append(["all, bytes", *(f"{run.total:,}" for run in runs)])
    case = Case(**{"dtype": "float16"} | TRIAL | fields)
    return table([str(case), *(run.label for run in runs)], body)


def visited(stage: str | Stage, *, programs: int = 3, **fields) -> Shown:
    """What each program loads and stores, in order, tile by tile: "Q1" is tile 1 of Q. Of the first `programs`.

    fields: of reference.Case; default: two Q tiles and three K/V tiles of one small head.
    """
    stage = stage_of(stage)
    case = TINY | fields
    rows = stage.tile_rows(case["headdim"], 2)
    run = traced(stage, **case)
    lines: dict[tuple, list[list[str]]] = {}
    last = None
    for access in run.accesses:
        mine = lines.setdefault(access.program, [[]])
        word = access.kind if access.kind == "barrier" else f"{access.name}{access.row // rows}"
        turns = access.kind == "load" and (last in ("store", "barrier") or _begins(access.name, mine[-1]))
        turns |= access.kind == "store" and last == "load" and any(word.startswith("K") for word in mine[-1])
        if turns or access.kind == "barrier":
            mine.append([])
        if access.kind != "barrier" and (not mine[-1] or last != access.kind):
            mine[-1].append(access.kind)
        mine[-1].append(word)
        last = access.kind
    shown = []
    for number, (_, mine) in enumerate(lines.items()):
        if number == programs:
            shown.append(f"… and {len(lines) - programs} more programs")
            break
        shown.append(f"program {number}")
        shown += [f"    {' '.join(line)}" for line in mine if line]
    body = "\n".join(shown)
    return Shown(f"{run.label}, {Case(**case)}:\n\n```\n{body}\n```", body)


def _begins(name: str, line: list[str]) -> bool:
    """Whether a load of this tensor begins a line: of K always, of another where the line has one of its tiles."""
    return bool(line) and (name == "K" or name == "Q" or any(word.rstrip("0123456789") == name for word in line))


def main() -> int:
    """In a process of its own: [stage, kernel file, label, fields of the case] as JSON -> the recording as JSON."""
    name, kernel, label, fields = json.loads(sys.argv[1])
    stage = get(name)
    if Path(kernel) != stage.kernel_file:
        stage = edited(stage, Path(kernel))
    print(json.dumps(asdict(_record(stage, label, fields))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
