"""The grader's side of a student's process: it is started, given jobs one at a time, limited, watched and ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tools.assignment.tensors import describe

WALL = 4  # seconds of waiting for each second of computing that a job may take: there is half a processor, or a crowd
AFRESH = "ASSIGNMENT_WORKER_AFRESH"  # tells a worker to begin every job in a new process, not in a copy of its own
POLL_S = 0.005  # how often a running job's memory is looked at
START_S = 120  # for the libraries to load
ANSWER_BYTES = 4 << 20  # of text; more is no answer
LOG_BYTES = 20_000


@dataclass(frozen=True)
class Pause:
    """A process waited, from `seen` to `resumed` in seconds of the grader's clock. peak_bytes: the most memory that it
    had held since its pause before, as the system counts it; held_bytes: what it held then."""

    seen: float
    resumed: float
    peak_bytes: int
    held_bytes: int


@dataclass(frozen=True)
class Answer:
    """What became of a job.

    ended: "" when it ran to its end, or "time", "memory", "killed" (a signal, or an early exit).
    data: what its process wrote, not to be trusted; out: the bytes of its results; pauses: those that it asked for.
    """

    ended: str
    data: dict
    out: bytes
    seconds: float
    log: str = ""
    pauses: tuple[Pause, ...] = ()


@dataclass
class Job:
    """seconds: of computing, after which it is stopped; calls: each a function of the submission, with its arguments,
    whose tensors are in `blob`."""

    seconds: float
    calls: list[dict] = field(default_factory=list)
    blob: bytearray = field(default_factory=bytearray)

    def tensor(self, t: torch.Tensor) -> dict:
        return describe(t, self.blob)


class Worker:
    """A process for the submission in `tree`, as long as the `with` lasts.

    gpu: whether it sees a GPU. One that does not runs stages as on a machine that has none, wherever it is; one that
    does begins every job from scratch, for a process that has looked for a GPU cannot hand it on to its child.
    """

    def __init__(self, tree: Path, *, memory_mb: int, preload: Sequence[str] = (), gpu: bool = False):
        self.tree, self.memory_mb, self.preload, self.gpu = tree, memory_mb, tuple(preload), gpu
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> Worker:
        self.scratch = Path(tempfile.mkdtemp(prefix="grading-"))
        return self

    def __exit__(self, *_) -> None:
        self.stop()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def start(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-B", "-m", "tools.assignment.worker", str(theirs.fileno()), *self.preload]
        self.process = subprocess.Popen(
            command, cwd=self.tree, env=self._environment(), pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self.channel, self.pending = ours, b""
        if self._line(time.monotonic() + START_S) is None:
            said = self.process.stderr.read().decode(errors="replace")[-2000:]
            self.stop()
            raise RuntimeError(f"the process for the submission does not start: {said}")

    def stop(self) -> None:
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stderr.close()
        self.channel.close()
        self.process = None

    def run(self, job: Job, *, backend: str, module: str, file: str) -> Answer:
        """Carry out `job` in a process of its own, within its time and memory."""
        if self.process is None or self.process.poll() is not None:
            self.stop()
            self.start()
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        (folder / "in.bin").write_bytes(job.blob)
        request = {
            "calls": job.calls, "backend": backend, "module": module, "file": file, "seconds": job.seconds,
            "memory_mb": self.memory_mb,
        }  # fmt: skip
        (folder / "job.json").write_text(json.dumps(request), encoding="utf-8")
        try:
            return self._watched(folder, job)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _watched(self, folder: Path, job: Job) -> Answer:
        start = time.monotonic()
        deadline = start + WALL * job.seconds
        pauses: list[Pause] = []
        with _Pauses(folder) as paused:
            with contextlib.suppress(OSError):
                self.channel.sendall(json.dumps({"folder": str(folder)}).encode() + b"\n")
            first = self._line(deadline)
            pid = first.get("pid") if first else None
            if not isinstance(pid, int) or pid <= 1:
                self.stop()
                return Answer("killed", {}, b"", time.monotonic() - start)
            held, ended, status = resident(pid), "", None
            while True:
                line = self._line(time.monotonic() + POLL_S, paused.asked)
                if line is not None:
                    status = line.get("status")
                    break
                if self.process.poll() is not None:
                    ended = "killed"
                    break
                if paused.waits():
                    seen, peak = time.monotonic(), high_water(pid)
                    held = resident(pid)
                    pauses.append(Pause(seen, time.monotonic(), peak, held))
                    paused.go_on()
                if high_water(pid) - held > self.memory_mb * 1_000_000:
                    ended = "memory"
                elif time.monotonic() > deadline:
                    ended = "time"
                if ended:
                    self.end_group(pid)
                    self._line(time.monotonic() + 5)
                    break
            self.end_group(pid)  # whatever it has started
        seconds = time.monotonic() - start
        if not ended and status != 0:
            ended = "time" if status in (-signal.SIGXCPU, -signal.SIGKILL) and seconds > job.seconds else "killed"
        data = _read_json(folder / "answer.json") if not ended else {}
        out = _read(folder / "out.bin", 1 << 30) if not ended else b""
        if not ended and not isinstance(data.get("calls"), list):
            ended = "killed"
        log = _read(folder / "log.txt", LOG_BYTES).decode(errors="replace")
        return Answer(ended, data, out, seconds, log, tuple(pauses))

    def end_group(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)

    def _line(self, until: float, *others: int) -> dict | None:
        """The next line of the worker's; None: it has not come by then, it is gone, or one of `others` is ready."""
        while b"\n" not in self.pending:
            wait = until - time.monotonic()
            if wait <= 0 or self.channel not in select.select([self.channel, *others], [], [], wait)[0]:
                return None
            try:
                piece = self.channel.recv(1 << 16)
            except OSError:
                return None
            if not piece:
                return None
            self.pending += piece
            if len(self.pending) > ANSWER_BYTES:
                return None
        line, _, self.pending = self.pending.partition(b"\n")
        try:
            data = json.loads(line)
        except ValueError:
            return {}
        return data if isinstance(data, dict) else {}

    def _environment(self) -> dict[str, str]:
        """Only what the libraries need: no secrets of the grader's own environment."""
        kept = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_PATH", "CUDA_HOME", "TMPDIR", "CXX",
                "CUDA_EMULATE", "TRITON_INTERPRET", "XDG_CACHE_HOME", "LANG")  # fmt: skip
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        if not self.gpu:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        if self.gpu:
            environment[AFRESH] = "1"
        return {**environment, **threads, "HOME": os.environ.get("HOME", str(self.scratch)), "PYTHONHASHSEED": "0",
                "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ""}  # fmt: skip


class _Pauses:
    """Two pipes in a job's folder: on one the process asks for a pause, on the other it waits. To stop itself would
    be simpler; but others stop it too, `local` for one."""

    def __init__(self, folder: Path):
        self.paths = folder / "paused", folder / "go"

    def __enter__(self) -> _Pauses:
        for path in self.paths:
            os.mkfifo(path)
        self.asked, self.answered = (os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in self.paths)
        return self

    def __exit__(self, *_) -> None:
        os.close(self.asked)
        os.close(self.answered)

    def waits(self) -> bool:
        try:
            return bool(os.read(self.asked, 1))
        except BlockingIOError:
            return False

    def go_on(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: somebody has asked without waiting
            os.write(self.answered, b".")


def _status(pid: int, name: str) -> int:
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def resident(pid: int) -> int:
    """Bytes that the process holds now; from here on its high-water mark is counted."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/clear_refs", "w") as reset:
        reset.write("5")
    return _status(pid, "VmRSS")


def high_water(pid: int) -> int:
    return _status(pid, "VmHWM")


def _read(path: Path, most: int) -> bytes:
    try:
        if path.is_symlink() or not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(most)
    except OSError:
        return b""


def _read_json(path: Path) -> dict:
    try:
        data = json.loads(_read(path, ANSWER_BYTES))
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
