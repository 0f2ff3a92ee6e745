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

# DWARF 4: addr2line of binutils before 2.41 takes clang's newer files for others. -g1 after it, which asks for more:
# lines are all that is looked up, and of those the kernel's alone.
STANDARD = (
    *("-std=c++17", "-gdwarf-4", "-g1", "-fno-omit-frame-pointer"),
    *("-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function"),
)
# Not every CPU traps where an integer is divided by zero, so the compiler sees to it. A function that ends without its
# `return` runs on into whatever stands behind it: what would be found then is far from the mistake.
KERNEL_OPTIONS = (
    *("-O2", "-Werror=return-type"),
    *("-fsanitize=integer-divide-by-zero", "-fsanitize-undefined-trap-on-error"),
)
WORKER_OPTIONS = ("-O3", "-g0")
KERNEL_HEADERS = ("emulator.hpp", "ptx.hpp")
KEEP = 2000  # executables in the cache; the ones not used for longest go first


class CompileError(Exception):
    """The host compiler refused a kernel; the text is what it said."""


def compiler() -> tuple[str, ...] | None:
    """The C++ compiler's command: $CXX, and where that is not set the first that is installed of g++, clang++ and c++.
    None: there is none."""
    chosen = shlex.split(os.environ.get("CXX", ""))
    for command in [chosen] if chosen else [["g++"], ["clang++"], ["c++"]]:
        if shutil.which(command[0]):
            return tuple(command)
    return None


def missing() -> str | None:
    """What the emulator lacks on this machine, as a clause that says how to get it; None when it can run."""
    if platform.system() != "Linux":
        return "the emulator needs Linux"
    command = compiler()
    if command is None and os.environ.get("CXX", "").strip():
        return f"the emulator needs a C++ compiler, and {os.environ['CXX']}, which CXX asks for, is not installed"
    if command is None:
        return (
            "the emulator needs a C++ compiler, and none is installed (the package is g++ or clang on Debian and "
            "Ubuntu, gcc-c++ or clang on Fedora)"
        )
    if not _target(command):
        return f"the emulator needs a C++ compiler, and {shlex.join(command)} does not answer -dumpmachine as one does"
    if runner(command) and not shutil.which(runner(command)[0]):
        return (
            f"{shlex.join(command)} compiles for {_target(command)}, which takes {runner(command)[0]} to run here (the "
            "package is qemu-user)"
        )
    return None


@functools.cache
def _version(command: tuple[str, ...]) -> str:
    return subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout


@functools.cache
def _target(command: tuple[str, ...]) -> str:
    """What it compiles for: "x86_64-linux-gnu". "": it is no compiler."""
    try:
        return subprocess.run([*command, "-dumpmachine"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _native(command: tuple[str, ...]) -> bool:
    return _target(command).partition("-")[0] == platform.machine()


def runner(command: tuple[str, ...]) -> tuple[str, ...]:
    """What has to stand before an executable to run it: nothing, or QEMU where the compiler is for another CPU."""
    if _native(command):
        return ()
    target = _target(command)
    return (f"qemu-{target.partition('-')[0]}", "-L", f"/usr/{target}")


def addr2line(command: tuple[str, ...]) -> str | None:
    """The tool that turns program counters into lines; None: it is not installed."""
    names = ("addr2line", "llvm-addr2line") if _native(command) else (f"{_target(command)}-addr2line", "llvm-addr2line")
    return next(filter(None, map(shutil.which, names)), None)


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
    if _target(command).startswith("x86_64"):
        found.append("-fcf-protection=none")  # a shadow stack would not know of the threads' own
        if _native(command):
            found.append("-march=native")
    if "clang" not in _version(command).lower():
        found.append("-fno-extern-tls-init")  # or every use of shared memory asks whether it has been constructed
    if "linux" in _target(command):
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


def _build(target: Path, command: tuple[str, ...], arguments: list[str], source: str = "") -> Path:
    """Run the compiler `command` with `arguments`, `source` being in kernel.cu, and put its output at `target`, whole
    or not at all."""
    if target.exists():
        os.utime(target)
        return target
    with _lock(target.parent / "locks" / target.name):
        if target.exists():
            return target
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as folder:
            (Path(folder) / "kernel.cu").write_text(source, encoding="utf-8")
            line = [*command, *arguments, "-o", "built"]
            run = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
            if run.returncode:
                said = run.stderr.strip() + _hint(run.stderr)
                raise CompileError(f"{shlex.join(command)} refused the kernel:\n{said}")
            os.replace(Path(folder) / "built", target)
        _prune(target.parent)
    return target


def _hint(said: str) -> str:
    if "undefined reference" not in said and "undefined symbol" not in said:
        return ""
    return (
        "\nDynamic shared memory is called smem here: `extern __shared__ __align__(N) unsigned char smem[];`. "
        "Static `__shared__` arrays may have any name."
    )


def _prune(folder: Path) -> None:
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    if len(files) <= KEEP:
        return
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(files, key=lambda path: path.stat().st_mtime)[: len(files) - KEEP * 3 // 4]:
            path.unlink()
            (folder / "locks" / path.name).unlink(missing_ok=True)


@functools.cache
def _worker(command: tuple[str, ...], defines: tuple[str, ...]) -> Path:
    """The worker without a kernel, an object file."""
    arguments = [*options(command), *WORKER_OPTIONS, *defines]
    key = _key("worker", *_toolchain(command), repr(arguments), _contents(CPP, ("*.hpp", "*.cpp")))
    return _build(cache_dir() / f"{key}.o", command, [*arguments, "-c", str(CPP / "worker.cpp")])


def _toolchain(command: tuple[str, ...]) -> tuple[str, ...]:
    return repr(command), _version(command), _target(command), _cpu()


@functools.cache
def _executable(command: tuple[str, ...], source: str, kernel: str, defines: tuple[str, ...]) -> Path:
    unit = f"{source}\nEMULATOR_KERNEL({kernel})\n"
    worker = _worker(command, defines)
    arguments = [*options(command), *KERNEL_OPTIONS, *defines]
    headers = _contents(COMMON, ("*.cuh",)) + _contents(CPP, KERNEL_HEADERS)
    key = _key("kernel", worker.name, *_toolchain(command), repr(arguments), headers, unit)
    # The kernel before the worker: memory.hpp asks for its static shared arrays before smem.
    inputs = [f"-I{COMMON}", f"-I{CPP}", "-x", "c++", "kernel.cu", "-x", "none", str(worker)]
    return _build(cache_dir() / key, command, [*arguments, *inputs], unit)


def executable(source: str, kernel: str, defines: tuple[str, ...] = ()) -> Path:
    """An executable that runs `kernel` ("attention_kernel<bf16, 64, false>") of the CUDA source text `source`.

    defines: more compiler options, such as "-DEMULATOR_UCONTEXT".
    Raises CompileError with the compiler's words, in which the source is called kernel.cu.
    """
    why_not = missing()
    if why_not:
        raise CompileError(why_not)
    return _executable(compiler(), source, kernel, defines)
