"""What this machine has: Python, libraries, compiler, NVIDIA driver, GPUs.

    from tools.machine import machine, environment
    machine().gpus            # what the doctor, the demo and the tests ask
    environment()             # what a results file records about its run

Importing this module needs nothing but the standard library; `machine()` imports torch if it is installed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# A library, and the distributions that bring it.
DISTRIBUTIONS = {
    "numpy": ("numpy",),
    "torch": ("torch",),
    "triton": ("triton",),
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "nvrtc": ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"),
}


@dataclass(frozen=True)
class Gpu:
    """One GPU. arch: compute capability as 10·major + minor; memory in bytes."""

    name: str
    arch: int
    memory: int

    @property
    def capability(self) -> str:
        return f"{self.arch // 10}.{self.arch % 10}"


@dataclass(frozen=True)
class Machine:
    """This machine. What it lacks is None (or empty), never an error."""

    python: str
    platform: str
    cpu: str
    packages: dict[str, str | None]  # library -> version, for the keys of DISTRIBUTIONS
    compiler: str | None  # path of the C++ compiler
    compiler_version: str | None
    driver: str | None
    driver_cuda: tuple[int, int] | None  # the newest CUDA that the driver serves
    gpus: tuple[Gpu, ...]
    torch_cuda: str | None  # the CUDA that PyTorch was built with
    torch_sees_gpu: bool
    tools: dict[str, str | None]  # nvcc, ncu, compute-sanitizer -> path

    @property
    def device(self) -> str:
        """What a plot's title calls it: the first GPU, or else the CPU."""
        return self.gpus[0].name if self.torch_sees_gpu else self.cpu


def version(library: str) -> str | None:
    """The installed version of a key of DISTRIBUTIONS, without importing it."""
    for distribution in DISTRIBUTIONS[library]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(distribution)
    return None


@functools.cache
def machine() -> Machine:
    """Look at this machine; once a process."""
    compiler = find_compiler()
    smi = nvidia_smi()
    gpus, torch_cuda = _gpus_by_torch()
    return Machine(
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=_cpu_name(),
        packages={library: version(library) for library in DISTRIBUTIONS},
        compiler=compiler,
        compiler_version=_first_line([compiler, "--version"]) if compiler else None,
        driver=driver_version(smi or ""),
        driver_cuda=driver_cuda(smi or ""),
        gpus=gpus or _gpus_by_smi(),
        torch_cuda=torch_cuda,
        torch_sees_gpu=bool(gpus),
        tools={name: _cuda_tool(name) for name in ("nvcc", "ncu", "compute-sanitizer")},
    )


def environment() -> dict:
    """What a results file says about the run that made it; JSON-able, and None for what there is not."""
    here = machine()
    return {
        "device": here.device,
        "compute_capability": here.gpus[0].capability if here.torch_sees_gpu else None,
        "driver": here.driver,
        "driver_cuda": ".".join(map(str, here.driver_cuda)) if here.driver_cuda else None,
        "cuda": here.torch_cuda,
        "cudnn": _cudnn_version() if here.torch_sees_gpu else None,
        **here.packages,
        "python": here.python,
        "platform": here.platform,
        "cpu": here.cpu,
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "clocks": clocks() if here.torch_sees_gpu else {},
    }


def commit() -> str | None:
    """What the variable GIT_COMMIT says; without it the checked-out commit, "-dirty" behind it when tracked files
    differ; outside a git checkout None."""
    describe = ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    return os.environ.get("GIT_COMMIT") or _first_line(["git", "-C", str(ROOT), *describe])


def clocks() -> dict[str, float]:
    """Clocks (MHz), power (W) and temperature (°C) of the current GPU as the driver reads them now, or {}."""
    import torch

    fields = {
        "clocks.sm": "sm_mhz",
        "clocks.mem": "mem_mhz",
        "power.draw": "power_w",
        "temperature.gpu": "temp_c",
    }
    # By UUID: torch counts the visible devices, nvidia-smi all of them.
    uuid = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", None)
    if uuid is None:
        return {}
    text = nvidia_smi("-i", f"GPU-{uuid}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
    read = {}
    for name, value in zip(fields.values(), (text or "").split(","), strict=False):
        with contextlib.suppress(ValueError):  # "[N/A]"
            read[name] = float(value)
    return read


def find_compiler() -> str | None:
    """The C++ compiler: $CXX if set, or else the first that works of g++, clang++, c++."""
    for name in [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]:
        path = shutil.which(name)
        if path and _output([path, "--version"]):
            return path
    return None


def nvidia_smi(*arguments: str) -> str | None:
    """What nvidia-smi prints; None when there is none or it fails (no driver, no such GPU)."""
    path = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/usr/lib/wsl/lib")
    return _output([path, *arguments]) if path else None


def driver_version(smi: str) -> str | None:
    """The driver's version in nvidia-smi's table."""
    found = re.search(r"Driver Version:\s*(\d+(?:\.\d+)+)", smi)
    return found[1] if found else None


def driver_cuda(smi: str) -> tuple[int, int] | None:
    """The newest CUDA version that the driver serves, as nvidia-smi's table says; None without a driver."""
    found = re.search(r"CUDA(?: UMD)? Version:\s*(\d+)\.(\d+)", smi)
    if found:
        return int(found[1]), int(found[2])
    # N/A where libcuda is not mounted (some containers): the driver's own version tells as much.
    driver = driver_version(smi)
    if driver is None:
        return None
    return (13, 0) if int(driver.partition(".")[0]) >= 580 else (12, 0)


def _gpus_by_torch() -> tuple[tuple[Gpu, ...], str | None]:
    """The GPUs that PyTorch can use, in its order, and the CUDA it was built with."""
    try:
        torch = importlib.import_module("torch")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        found = [torch.cuda.get_device_properties(i) for i in range(count)]
    except Exception:  # not installed, or broken: `make doctor` says which
        return (), None
    return tuple(Gpu(p.name, 10 * p.major + p.minor, p.total_memory) for p in found), torch.version.cuda


def _gpus_by_smi() -> tuple[Gpu, ...]:
    text = nvidia_smi("--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits")
    gpus = []
    for line in (text or "").splitlines():
        with contextlib.suppress(ValueError):
            name, capability, mebibytes = line.rsplit(",", 2)
            major, minor = capability.split(".")
            gpus.append(Gpu(name.strip(), 10 * int(major) + int(minor), int(mebibytes) << 20))
    return tuple(gpus)


def _cudnn_version() -> str | None:
    import torch

    number = torch.backends.cudnn.version()  # 92000 is 9.20.0
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}" if number else None


def _cuda_tool(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        return _first_line(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.machine()
    return platform.processor() or platform.machine()


def _output(command: list[str]) -> str | None:
    """Standard output of a command; None if it is not there, fails, or takes longer than 20 s."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _first_line(command: list[str]) -> str | None:
    return next(iter((_output(command) or "").splitlines()), None)
