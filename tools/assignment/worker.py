"""The student's side of grading: a process that has the submission, its inputs, and nothing else.

Run as `python -m tools.assignment.worker FD` in a tree that holds the stages' frame and the submitted files, but no
reference, no solution and no expected value. It loads the libraries once; for every job that a line on socket FD names
it forks a child, which carries the job out in a folder of its own and ends. What the grader believes is only what the
results are: everything written here may be a student's doing.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import torch

from stages.common import interpreter  # noqa: F401  before Triton, should a submission import it
from tools.assignment.tensors import describe, restore
from tools.assignment.through import watch

GUARD = 256  # elements on either side of an output
AFRESH = "ASSIGNMENT_WORKER_AFRESH"  # as in process.py, which a submission's tree has not
FILE_BYTES = 256 << 20  # that a job may write to one file
MOST_NOTES = 1_000_000  # characters
SAID = 4000  # characters of an exception's text that are kept


SYNCHRONIZE = torch.cuda.synchronize  # before a submission can put something else in its place


class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes every operation that torch carries out."""

    def __init__(self):
        super().__init__()
        self.ops: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops.add(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


class Launches:
    """Notes every launch of a Triton kernel: its name and its number of programs. In the interpreter also how many
    elements the largest block has that is loaded, and what each program stores of `results`."""

    def __init__(self):
        self.seen: list[tuple[str, int]] = []
        self.begin([])

    def begin(self, results: list[torch.Tensor]) -> None:
        """A call begins, whose results go into these tensors."""
        del self.seen[:]
        self.block, self.stored = 0, {}
        self.ranges = [(t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()) for t in results]

    def told(self) -> dict | None:
        """block: elements of the largest one loaded; most, all: elements of the results that a program, and all of them
        together, stored, each counted once a program. None: a GPU does not say."""
        if not interpreter.INTERPRETING:
            return None
        counts = [len(places) for places in self.stored.values()]
        return {"block": self.block, "most": max(counts, default=0), "all": sum(counts)}

    def _loads(self, pointers) -> None:
        self.block = max(self.block, int(np.size(pointers)))

    def _stores(self, program: tuple, pointers, mask) -> None:
        places = np.asarray(pointers)[np.broadcast_to(np.asarray(mask, dtype=bool), np.shape(pointers))]
        for start, end in self.ranges:
            inside = places[(places >= start) & (places < end)]
            self.stored.setdefault((len(self.seen), *program), set()).update(inside.tolist())

    def watch(self) -> None:
        if interpreter.INTERPRETING:
            from triton.runtime import interpreter as triton_interpreter

            self._wrap(triton_interpreter.GridExecutor, "__call__", lambda executor: (executor.fn, executor.grid))
            self._wrap_memory(triton_interpreter.InterpreterBuilder)
        else:
            from triton.runtime import jit

            run = jit.JITFunction.run
            seen = self.seen

            def noted(kernel, *args, grid, warmup, **kwargs):
                sizes = grid(kwargs) if callable(grid) else grid
                seen.append((kernel.fn.__name__, int(np.prod(sizes))))
                return run(kernel, *args, grid=grid, warmup=warmup, **kwargs)

            jit.JITFunction.run = noted

    def _wrap_memory(self, builder) -> None:
        load, store, atomic = builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw

        def noted_load(self_, pointers, *rest, **more):
            self._loads(pointers.data)
            return load(self_, pointers, *rest, **more)

        def noted_store(self_, pointers, value, mask, *rest, **more):
            self._stores(tuple(self_.grid_idx), pointers.data, mask.data)
            return store(self_, pointers, value, mask, *rest, **more)

        def noted_atomic(self_, what, pointers, value, mask, *rest, **more):
            self._stores(tuple(self_.grid_idx), pointers.data, mask.data)
            return atomic(self_, what, pointers, value, mask, *rest, **more)

        builder.create_masked_load, builder.create_masked_store = noted_load, noted_store
        builder.create_atomic_rmw = noted_atomic

    def _wrap(self, cls, method, about) -> None:
        original = getattr(cls, method)
        seen = self.seen

        def noted(executor, *args, **kwargs):
            fn, grid = about(executor)
            sizes = grid(kwargs) if callable(grid) else grid
            seen.append((fn.__name__, int(np.prod(sizes))))
            return original(executor, *args, **kwargs)

        setattr(cls, method, noted)


def main(argv: list[str]) -> int:
    if argv[1] == "--job":
        _child(Path(argv[2]))
    if os.environ.get(AFRESH):
        return _begin_afresh(socket.socket(fileno=int(argv[1])))
    channel = socket.socket(fileno=int(argv[1]))
    for module in argv[2:]:
        importlib.import_module(module)
    _warm_up()
    lines = channel.makefile("r", encoding="utf-8")
    channel.sendall(b'{"ready": true}\n')
    for line in lines:
        folder = Path(json.loads(line)["folder"])
        child = os.fork()
        if child == 0:
            channel.close()
            os.setpgid(0, 0)
            _child(folder)
        with contextlib.suppress(OSError):
            os.setpgid(child, child)
        channel.sendall(json.dumps({"pid": child}).encode() + b"\n")
        _, status, _ = os.wait4(child, 0)
        channel.sendall(json.dumps({"status": os.waitstatus_to_exitcode(status)}).encode() + b"\n")
    return 0


def _begin_afresh(channel: socket.socket) -> int:
    """The same conversation, every job in a process of its own that loads the libraries itself."""
    lines = channel.makefile("r", encoding="utf-8")
    channel.sendall(b'{"ready": true}\n')
    for line in lines:
        command = [sys.executable, "-B", "-m", "tools.assignment.worker", "--job", json.loads(line)["folder"]]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=os.setpgrp)  # process_group= is of 3.11
        channel.sendall(json.dumps({"pid": child.pid}).encode() + b"\n")
        channel.sendall(json.dumps({"status": child.wait()}).encode() + b"\n")
    return 0


def _warm_up() -> None:
    """What torch loads at the first recorded operation is loaded once, here: no job's time, and no job's memory."""
    torch.set_num_threads(1)
    from stages.common import contract  # noqa: F401

    with Recorder():
        t = torch.ones(8, 8).to(torch.float16)
        t = t[:4].transpose(0, 1).detach().clone()
        t.copy_(torch.full((8, 4), torch.nan))
        torch.nn.functional.pad(torch.empty_like(t), (0, 4))


def _child(folder: Path) -> None:
    """Carry out the job in `folder` and end, whatever happens."""
    code = 1
    try:
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _limit(job)
        code = _carry_out(job, folder)
    except BaseException:
        with contextlib.suppress(BaseException):
            traceback.print_exc()
    finally:
        os._exit(code)


def _limit(job: dict) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if os.path.exists("/proc/self/statm") else 0
    now = pages * resource.getpagesize()
    on_gpu = any(
        call.get("device") == "cuda" for call in job["calls"]
    )  # whose driver reserves addresses by the terabyte
    for what, value in (
        (resource.RLIMIT_AS, resource.RLIM_INFINITY if on_gpu else now + job["memory_mb"] * 1_000_000),
        (resource.RLIMIT_CPU, int(job["seconds"]) + 1),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (value, value))


def _carry_out(job: dict, folder: Path) -> int:
    blob = memoryview((folder / "in.bin").read_bytes())
    answers, out = [], bytearray()
    launches = Launches()
    try:
        if job["backend"] == "triton":
            launches.watch()
        for call in job["calls"]:
            if call.get("instrument"):
                _instrument(job, folder, call["instrument"])
            pause = Pause(folder)
            if call.get("pause"):  # until the grader has looked at how much memory is held, and lets go on
                pause()
            answers.append(_call(job, call, blob, out, launches, pause))
            if call.get("pause"):
                pause()
            if "error" in answers[-1]:
                break
        answer = {"calls": answers}
    except BaseException as error:
        answer = {"calls": answers, "error": _told(error, job["file"])}
    if (folder / "overlap.txt").is_file():
        answer["overlap"] = (folder / "overlap.txt").read_text(encoding="utf-8", errors="replace")[:MOST_NOTES]
    (folder / "out.bin").write_bytes(out)
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
    return 0


class Pause:
    """Waits, when it is called, until the grader has looked: the other side is process.Pauses."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self) -> None:
        with open(self.folder / "paused", "wb", buffering=0) as paused, open(self.folder / "go", "rb") as go:
            paused.write(b".")
            go.read(1)


def _call(job: dict, call: dict, blob, out: bytearray, launches: Launches, pause: Pause) -> dict:
    target = importlib.import_module(job["module"])
    sizes = watch(target, call["through"]) if call.get("through") else []
    arguments = [restore(a, blob) if isinstance(a, dict) else a for a in call["arguments"]]
    try:
        if call["kind"] == "function":
            with np.errstate(all="ignore"):
                result = getattr(target, call["name"])(*(_numpy(a) for a in arguments))
            result = result if isinstance(result, tuple) else (result,)
            arrays = [torch.from_numpy(np.ascontiguousarray(np.asarray(r, dtype=np.float64))) for r in result]
            return {"tensors": [describe(t, out) for t in arrays]}
        if call["kind"] == "speed":
            return _speed(target, call, arguments, out, launches, pause)
        if call["kind"] == "places":
            return {"tensors": [describe(_places(job, call), out)]}
        return {
            **_attention(target, call, arguments, blob, out, launches),
            "through": [len(sizes), max(sizes, default=0)],
        }
    except Exception as error:
        return {"error": _told(error, job["file"])}


def _instrument(job: dict, folder: Path, how: str) -> None:
    """From here on the stage's kernel is a copy: "overlap" notes which products run while copies travel, "fragments"
    does something else to what goes through ldmatrix and the products."""
    from stages.common.record import Stage
    from tools.assignment.overlap import FILE, FRAGMENTS, NOTES, instrumented

    copy = folder / "kernel.cu"
    prelude = {"overlap": NOTES, "fragments": FRAGMENTS}[how]
    copy.write_text(instrumented(Path(job["file"]).read_text(encoding="utf-8"), prelude), encoding="utf-8")
    os.environ[FILE] = str(folder / "overlap.txt")
    Stage.kernel_file = property(lambda stage: copy)


def _places(job: dict, call: dict):
    """Where the kernel's tile_offset sends the chunks of a tile."""
    from tools.assignment.places import probed
    from tools.emulator import Array, emulate, launch

    places = np.zeros(call["rows"] * call["d"] // 8, np.uint32)
    source = probed(Path(job["file"]).read_text(encoding="utf-8"), call["rows"])
    with emulate(raises=False, limit_s=job["seconds"]):
        launch(source, f"places_of_chunks<{call['d']}>", [Array("places", places, writable=True)], grid=(1,), block=32)
    return torch.from_numpy(places.astype(np.float64))


def _numpy(value):
    return value.numpy() if isinstance(value, torch.Tensor) else value


def _attention(target, call: dict, arguments: list, blob, out: bytearray, launches: Launches) -> dict:
    device = call["device"]
    q, k, v = (t.to(device) for t in arguments)
    runs = [None] + ([[restore(a, blob).to(device) for a in call["again"]]] if call["again"] else [])
    described, ops, counted = [], set(), []
    results = _output(q.shape, q.dtype, device), _output((q.shape[0], q.shape[2], q.shape[1]), torch.float32, device)
    for replacement in runs:
        if replacement:  # other numbers in the same tensors: who remembers results by where they are is found out
            for t, new in zip((q, k, v), replacement):
                t.copy_(new)
        for buffer, _ in results:
            buffer.fill_(torch.nan)
        views = [view for _, view in results]
        launches.begin(views)
        recorder, session = Recorder(), contextlib.nullcontext()
        if call["emulate"] is not None:
            from tools.emulator import emulate

            session = emulate(raises=False, **call["emulate"])
        with np.errstate(all="ignore"), session as kept, recorder:
            got = target.attention(
                q, k, v, causal=call["causal"], softmax_scale=call["softmax_scale"], out=views[0], lse=views[1]
            )
            _synchronize(device)
        returned = isinstance(got, tuple) and len(got) == 2 and got[0] is views[0] and got[1] is views[1]
        ops |= recorder.ops
        counted.append({"returned": returned, "launches": launches.seen[:], "report": _report(kept)})
        counted[-1]["programs"] = launches.told()
        described.append([describe(buffer.cpu(), out) for buffer, _ in results])
    return {"runs": described, "counted": counted, "ops": sorted(ops)}


def _speed(target, call: dict, arguments: list, out: bytearray, launches: Launches, pause: Pause) -> dict:
    """Rounds of calls. Before and after each the process waits for the grader, who holds the clock.

    Every call sees other rows of the tensors: a window into them that is moved by a few rows. So none repeats another.
    The first round is not timed: it compiles.
    """
    device, (batch, seqlen, *_) = call["device"], call["shape"]
    rows = batch * seqlen
    q, k, v = (t.to(device) for t in arguments)  # each (rows + some, heads, d)
    results = _output(call["shape"], q.dtype, device), _output((batch, q.shape[1], seqlen), torch.float32, device)
    (_, o), (_, lse) = results
    described, counted, recorder = [], [], Recorder()
    for number, windows in enumerate(call["rounds"]):
        views = [[t[w : w + rows].view(batch, seqlen, *t.shape[1:]) for t, w in zip((q, k, v), ws)] for ws in windows]
        for buffer, _ in results:
            buffer.fill_(torch.nan)
        launches.begin([])
        _synchronize(device)
        if number:
            pause()
        with recorder:
            for view in views:
                got = target.attention(
                    *view, causal=call["causal"], softmax_scale=call["softmax_scale"], out=o, lse=lse
                )
            _synchronize(device)
        if not number:
            continue
        pause()
        returned = isinstance(got, tuple) and len(got) == 2 and got[0] is o and got[1] is lse
        counted.append({"returned": returned, "launches": launches.seen[:], "report": None})
        described.append([describe(buffer.cpu(), out) for buffer, _ in results])
    return {"runs": described, "counted": counted, "ops": sorted(recorder.ops)}


def _synchronize(device: str) -> None:
    if device != "cpu":
        SYNCHRONIZE()


def _output(shape, dtype, device):
    """A buffer full of NaN, and the view in its middle that is handed out."""
    size = torch.Size(shape).numel()
    buffer = torch.full((size + 2 * GUARD,), torch.nan, dtype=dtype, device=device)
    return buffer, buffer[GUARD : GUARD + size].view(shape)


def _report(session) -> dict | None:
    """What the emulator counted and found, in a few numbers."""
    if session is None:
        return None
    counters: dict[str, dict[str, int]] = {}
    findings = []
    for report in session.reports:
        for site in report.sites:
            totals = counters.setdefault(site.op, {})
            for name in ("instructions", "lanes", "passes", "wavefronts", "sectors"):
                totals[name] = totals.get(name, 0) + getattr(site, name)
        findings += [{"kind": f.kind, "message": f.message, "lines": list(f.lines)} for f in report.findings]
    conflicts = [
        {"line": site.line, "op": site.op, "ways": site.ways}
        for report in session.reports
        for site in report.sites
        if site.conflicts
    ]
    return {"counters": counters, "findings": findings[:10], "conflicts": conflicts[:20], "n": len(session.reports)}


def _told(error: BaseException, file: str) -> dict:
    """An exception: its type, its text, the innermost line of the student's file, and whether it is a stub's."""
    links = [error]
    while (cause := links[-1].__cause__ or links[-1].__context__) is not None and cause not in links:
        links.append(cause)
    line = None
    for link in links:
        if isinstance(link, SyntaxError) and link.filename and link.filename.endswith(file):
            line = link.lineno
        frames = [f for f in traceback.extract_tb(link.__traceback__) if f.filename.endswith(file)]
        line = frames[-1].lineno if frames else line
    text = "\n".join(str(link) for link in links)
    return {"type": type(links[-1]).__name__, "text": text[:SAID], "line": line}


if __name__ == "__main__":
    sys.exit(main(sys.argv))
