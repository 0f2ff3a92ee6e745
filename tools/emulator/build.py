"""Compiling kernels for the CPU: kernel and worker are linked into one executable, kept in the user's cache directory.

Its name is a hash of everything that goes into it: source, headers, compiler, options and this CPU.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

CPP = Path(__file__).resolve().parent / "cpp"
ROOT = CPP.parent.parent.parent
COMMON = ROOT / "stages" / "common"

STANDARD = ("-std=c++17", "-g1", "-fno-omit-frame-pointer", "-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function")
KERNEL_OPTIONS = ("-O2",)
WORKER_OPTIONS = ("-O3",)
KEEP = 2000  # executables in the cache; the ones not used for longest go first


class CompileError(Exception):
    """The host compiler refused a kernel; the text is what it said."""


@functools.cache
def compiler() -> tuple[str, ...] | None:
    """The C++ compiler's command: $CXX, or the first that is installed of c++, g++ and clang++. None: there is none."""
    chosen = shlex.split(os.environ.get("CXX", ""))
    for command in ([chosen] if chosen else []) + [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return tuple(command)
    return None


def missing() -> str | None:
    """What the emulator lacks on this machine, as a clause that says how to get it; None when it can run."""
    if os.name != "posix":
        return "the emulator needs Linux or macOS"
    if compiler() is None:
        return (
            "the emulator needs a C++ compiler, and none is installed (the package is g++ on Debian and Ubuntu, "
            "gcc-c++ on Fedora; on macOS, xcode-select --install)"
        )
    return None


@functools.cache
def _version(command: tuple[str, ...]) -> str:
    return subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout


@functools.cache
def _cpu() -> str:
    """What -march=native depends on: a cache directory may be shared between machines."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return platform.processor()


def options(command: tuple[str, ...]) -> list[str]:
    """What kernel and worker are both compiled with."""
    found = list(STANDARD)
    if platform.machine() in ("x86_64", "AMD64"):
        found.append("-march=native")
    if "clang" not in _version(command).lower():
        found.append("-fno-extern-tls-init")  # or every use of shared memory asks whether it has been constructed
    if platform.system() == "Linux":
        found.append("-no-pie")  # program counters are then the same in every run: process.py looks up their lines
    return found


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "flash-attention-course" / "emulator"


def _contents(folder: Path, patterns: tuple[str, ...]) -> bytes:
    files = sorted(path for pattern in patterns for path in folder.glob(pattern))
    return b"".join(path.name.encode() + b"\0" + path.read_bytes() + b"\0" for path in files)


def _key(*parts: str | bytes) -> str:
    joined = b"\0".join(part.encode() if isinstance(part, str) else part for part in parts)
    return hashlib.sha256(joined).hexdigest()[:24]


@contextlib.contextmanager
def _lock(path: Path):
    """One process at a time: the others wait, and find the result."""
    import fcntl  # POSIX only, and `missing` has to answer elsewhere too

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(target: Path, arguments: list[str], source: str = "") -> Path:
    """Run the compiler with `arguments`, `source` being in kernel.cu, and put its output at `target`, whole or not at
    all."""
    if target.exists():
        os.utime(target)
        return target
    with _lock(target.parent / "locks" / target.name):
        if target.exists():
            return target
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as folder:
            command = [*compiler(), *arguments, "-o", "built"]
            (Path(folder) / "kernel.cu").write_text(source, encoding="utf-8")
            run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if run.returncode:
                raise CompileError(f"{shlex.join(compiler())} refused the kernel:\n{run.stderr.strip()}")
            os.replace(Path(folder) / "built", target)
        _prune(target.parent)
    return target


def _prune(folder: Path) -> None:
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    if len(files) <= KEEP:
        return
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(files, key=lambda path: path.stat().st_mtime)[: len(files) - KEEP * 3 // 4]:
            path.unlink()
            (folder / "locks" / path.name).unlink(missing_ok=True)


@functools.cache
def _worker(defines: tuple[str, ...]) -> Path:
    """The worker without a kernel, an object file."""
    command = compiler()
    arguments = [*options(command), *WORKER_OPTIONS, *defines]
    key = _key("worker", _version(command), _cpu(), repr(arguments), _contents(CPP, ("*.hpp", "*.cpp")))
    return _build(cache_dir() / f"{key}.o", [*arguments, "-c", str(CPP / "worker.cpp")])


@functools.cache
def executable(source: str, kernel: str, defines: tuple[str, ...] = ()) -> Path:
    """An executable that runs `kernel` ("attention_kernel<bf16, 64, false>") of the CUDA source text `source`.

    defines: more compiler options, such as "-DEMULATOR_UCONTEXT".
    Raises CompileError with the compiler's words, in which the source is called kernel.cu.
    """
    why_not = missing()
    if why_not:
        raise CompileError(why_not)
    command = compiler()
    unit = f"{source}\nEMULATOR_KERNEL({kernel})\n"
    worker = _worker(defines)
    arguments = [*options(command), *KERNEL_OPTIONS, *defines]
    headers = _contents(COMMON, ("*.cuh",)) + _contents(CPP, ("emulator.hpp", "ptx.hpp"))
    key = _key("kernel", worker.name, _version(command), _cpu(), repr(arguments), headers, unit)
    includes = [f"-I{COMMON}", f"-I{CPP}"]
    return _build(cache_dir() / key, [*arguments, *includes, "-x", "c++", "kernel.cu", "-x", "none", str(worker)], unit)
