"""Say what this machine has, which stages run where on it, and the one command that gets what is missing.

    make doctor

Works under any Python that the project supports with nothing installed, and installs nothing itself.
Exit code: 0 when at least one stage runs here, 1 when none does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

from tools import bootstrap

if sys.version_info < bootstrap.OLDEST_PYTHON:  # what follows would not import
    sys.exit(bootstrap.main([]))

from tools.machine import DISTRIBUTIONS, ROOT, Machine, find_compiler, machine

LABELS = {"numpy": "NumPy", "torch": "PyTorch", "triton": "Triton", "cupy": "CuPy", "nvrtc": "NVRTC"}
PLACES = {
    "host": "CPU",
    "gpu": "GPU",
    "interpreter": "Triton's interpreter",
    "emulator": "emulator",
    None: "not here",
}

# Run in a process of its own: a library that is broken enough takes the process with it.
TRY_IMPORTS = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
for library in sys.argv[1:]:
    try:
        if library == "nvrtc":
            importlib.import_module("cupy_backends.cuda.libs.nvrtc").getVersion()
        else:
            importlib.import_module(library)
        error = None
    except BaseException as e:
        error = f"{type(e).__name__}: {e}".splitlines()[0]
    print(json.dumps([library, error]), flush=True)
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.doctor", description=__doc__.partition("\n")[0])
    parser.parse_args(argv)
    own_venv = Path(sys.prefix).resolve() == (ROOT / ".venv").resolve()
    no_venv = os.environ.get("NO_VENV", "0") not in ("", "0")

    here = machine()
    broken = import_errors([library for library, version in here.packages.items() if version])
    show("This machine", ("", ""), machine_rows(here, broken))
    stages, reasons = stage_rows()
    show("Stages", ("stage", "title", "runs on", ""), stages)
    for number, reason in enumerate(reasons, start=1):
        print(textwrap.fill(f"({number}) {reason}", terminal_width(), initial_indent="  ", subsequent_indent="      "))
    for remark in remarks(here, stages):
        say(remark)
    say(advice(here, broken, own_venv, no_venv))
    return 0 if any(place != PLACES[None] for _, _, place, _ in stages) else 1


def import_errors(libraries: list[str]) -> dict[str, str]:
    """Of these installed libraries, those that do not import, each with the error."""
    command = [sys.executable, "-c", TRY_IMPORTS, *libraries]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=ROOT, timeout=300)
        output, end = done.stdout, f"the process that imported it ended with exit code {done.returncode}"
    except subprocess.TimeoutExpired as late:
        output, end = (late.stdout or b"").decode(), "importing it took more than 300 s"
    tried = dict(json.loads(line) for line in output.splitlines() if line.startswith("["))
    not_tried = [library for library in libraries if library not in tried]
    errors = {library: error for library, error in tried.items() if error}
    return errors | {library: end for library in not_tried[:1]}  # those behind it may well be fine


def machine_rows(here: Machine, broken: dict[str, str]) -> list[tuple[str, str]]:
    rows = [("Python", f"{here.python}, {sys.executable}"), ("system", here.platform), ("CPU", here.cpu)]
    for library, version in here.packages.items():
        text = version or "not installed"
        if library in broken:
            text += f", but it does not work: {broken[library]}"
        elif library == "torch" and version:
            text += f", for CUDA {here.torch_cuda}" if here.torch_cuda else ", a CPU build"
        rows.append((LABELS[library], text))
    rows.append(("C++ compiler", f"{here.compiler}, {here.compiler_version}" if here.compiler else "not found"))
    if here.driver:
        serves = ".".join(map(str, here.driver_cuda))
        rows.append(("NVIDIA driver", f"{here.driver}, serves CUDA up to {serves}"))
    else:
        rows.append(("NVIDIA driver", "not found"))
    for i, gpu in enumerate(here.gpus):
        rows.append((f"GPU {i}", f"{gpu.name}, compute capability {gpu.capability}, {gpu.memory / 2**30:.0f} GiB"))
    if not here.gpus:
        rows.append(("GPU", "none found"))
    for tool, path in here.tools.items():
        rows.append((tool, path or "not found (no stage needs it)"))
    return rows


def stage_rows() -> tuple[list[tuple[str, str, str, str]], list[str]]:
    """(stage, title, runs on, refused dtypes) for every stage, and the reasons that the rows number."""
    from stages import STAGES
    from stages.common.where import where

    reasons: list[str] = []

    def number(reason: str) -> str:
        if reason not in reasons:
            reasons.append(reason)
        return f"({reasons.index(reason) + 1})"

    rows = []
    for stage in STAGES:
        place = where(stage)
        refused = {dtype: there.reason for dtype in stage.capability.dtypes if not (there := where(stage, dtype))}
        if place:
            note = ", ".join(f"no {dtype} {number(reason)}" for dtype, reason in refused.items())
        else:
            note = number(place.reason)
        rows.append((stage.name, stage.title, PLACES[place.kind], note))
    return rows, reasons


def remarks(here: Machine, stages: list[tuple[str, str, str, str]]) -> list[str]:
    """What the two tables do not say by themselves."""
    found = []
    if sys.platform == "darwin":
        found.append("On macOS the NumPy stages run; Triton and CuPy have no builds for it.")
    if sys.platform == "win32":
        found.append("On Windows everything works in WSL2, and nothing is supported outside it.")
    if here.torch_sees_gpu and here.gpus[0].arch < 80:
        found.append(
            f"{here.gpus[0].name} has compute capability {here.gpus[0].capability}: no cp.async and no "
            "bf16 mma, which came with 8.0 (sm_80). The CUDA stages are written with both and need sm_80: "
            "none of them runs on this GPU."
        )
    if here.gpus and not here.torch_sees_gpu and here.packages["torch"]:
        if here.torch_cuda is None:
            why = "is a build without CUDA"
        elif here.driver_cuda and here.driver_cuda[0] < int(here.torch_cuda.partition(".")[0]):
            why = f"is built for CUDA {here.torch_cuda}, newer than the driver serves"
        else:
            why = "does not see it (CUDA_VISIBLE_DEVICES may hide it)"
        found.append(f"There is a GPU, but PyTorch {here.packages['torch']} {why}.")
    if not here.gpus and any(place in ("emulator", PLACES["interpreter"]) for _, _, place, _ in stages):
        found.append("Without a GPU a stage computes the same numbers, slowly; its speed can only be seen on one.")
    return found


def advice(here: Machine, broken: dict[str, str], own_venv: bool, no_venv: bool) -> str:
    """The one command that gets what is missing."""
    linux = sys.platform == "linux"
    wanted = [name for name in DISTRIBUTIONS if linux or name in ("numpy", "torch")]
    lacking = [name for name in wanted if not here.packages[name] or name in broken]
    system = []
    install = None
    if no_venv:
        if lacking:
            cupy = bootstrap.choose_cupy()
            extras = f"dev,{cupy}" if cupy else "dev"
            install = f"{sys.executable} -m pip install '.[{extras}]'"
    else:
        try:
            bootstrap.check_python()
        except bootstrap.BootstrapError as error:
            if "python3-venv" not in str(error):
                return f"To begin: {error}"
            system.append("python3-venv")
        stamp = bootstrap.read_stamp(ROOT / ".venv")
        if not own_venv or stamp != bootstrap.wanted_stamp(ROOT, stamp):
            install = "make demo"
        elif lacking:
            install = "rm -rf .venv && make demo"
    if find_compiler() is None:
        system.append("g++")
    # Triton compiles a small launcher against Python's own headers, which Debian packages separately.
    if here.gpus and linux and not Path(sysconfig.get_path("include"), "Python.h").exists():
        system.append("python3-dev")

    steps = []
    if system and sys.platform == "darwin":
        steps.append("xcode-select --install")
    elif system:
        sudo = "" if hasattr(os, "geteuid") and os.geteuid() == 0 else "sudo "
        # Elsewhere than on Debian the packages have other names, but these say what is meant.
        steps.append(f"{sudo}apt-get install {' '.join(system)}")
    if install:
        steps.append(install)
    if not steps:
        return "Nothing is missing."
    other = "" if not system or sys.platform == "darwin" or shutil.which("apt-get") else " (or your system's like)"
    return f"To get what is missing: {' && '.join(steps)}{other}"


def show(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table: by rich if it is installed, or else plain."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ModuleNotFoundError:
        print(f"\n{title}")
        widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns) - 1)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths)]  # noqa: B905 (the last has no width)
            print("  " + "  ".join([*cells, row[-1]]).rstrip())
        return
    table = Table(title=title, title_justify="left", title_style="bold", show_header=any(columns), box=None)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "stage")
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    console.print()
    console.print(table)


def say(words: str) -> None:
    print()
    print(textwrap.fill(words, terminal_width(), break_long_words=False, break_on_hyphens=False))


def terminal_width() -> int:
    return shutil.get_terminal_size().columns - 1


if __name__ == "__main__":
    sys.exit(main())
