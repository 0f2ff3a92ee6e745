"""Make the repository's virtual environment, .venv, unless it is current.

    python3 tools/bootstrap.py

`make demo` and `make test` run this first. It needs the standard library only and installs what
pyproject.toml asks for, with the CuPy that fits the NVIDIA driver. .venv/stamp.json, written when everything
is in place, says what it was made from; while that still holds there is nothing to do.

This file must parse under old Pythons, or they could not be told that they are too old.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 10)


class BootstrapError(Exception):
    """What went wrong, in words for the person at the terminal."""


def main(argv=None, root=ROOT):
    """Exit code: 0 the environment is there, 1 it could not be made, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python3 tools/bootstrap.py", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--cupy",
        choices=("auto", "cuda12", "cuda13"),
        default="auto",
        help="CUDA of CuPy and PyTorch (default: what the NVIDIA driver serves; cuda13 without a GPU)",
    )
    args = parser.parse_args(argv)
    try:
        check_python()
        bootstrap(root, None if args.cupy == "auto" else args.cupy)
    except (BootstrapError, OSError) as error:
        print("error: {}".format(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: .venv is not finished; the next run makes it again", file=sys.stderr)
        return 130
    return 0


def bootstrap(root, cupy=None):
    """Bring root/.venv up to date. cupy: "cuda12", "cuda13", or None to choose."""
    venv = root / ".venv"
    stamp = read_stamp(venv)
    wanted = wanted_stamp(root, stamp, cupy)
    if stamp == wanted and python_of(venv).exists():
        return

    if stamp:  # from here on an interruption must leave none
        (venv / "stamp.json").unlink()
    begin = time.monotonic()
    in_place = {**stamp, "pyproject": None} == {**wanted, "pyproject": None} and python_of(venv).exists()
    if not in_place:
        make_venv(venv)
    extras = ",".join(["dev", "notebooks"] + ([wanted["cupy"]] if wanted["cupy"] else []))
    say("installing for [{}], minutes the first time; log: .venv/bootstrap.log".format(extras))
    # From a folder of its own: building the project's metadata in the repository would leave folders behind.
    with tempfile.TemporaryDirectory() as project:
        shutil.copy(str(root / "pyproject.toml"), project)
        install = ["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
        install.append("{}[{}]".format(project, extras))
        run_logged([str(python_of(venv))] + install, venv / "bootstrap.log")
    write_stamp(venv, wanted)
    say("ready after {:.0f} s".format(time.monotonic() - begin))


def check_python(version=None, have=None, system=None):
    """Refuse, with the remedy, a Python or a system that cannot make the environment."""
    version = version or sys.version_info[:3]
    have = have or (lambda module: importlib.util.find_spec(module) is not None)
    system = system or platform.system()
    if system == "Windows":
        raise BootstrapError("Windows itself is not supported; everything works in WSL2 (`wsl --install`)")
    if version < OLDEST_PYTHON:
        newer = [name for name in ("python3.%d" % minor for minor in range(10, 20)) if shutil.which(name)]
        raise BootstrapError(
            "this is Python {} ({}); needed: {} or newer. Name one with `make PYTHON={} ...`".format(
                ".".join(map(str, version)),
                sys.executable,
                ".".join(map(str, OLDEST_PYTHON)),
                newer[-1] if newer else "/path/to/python3.12",
            )
        )
    missing = [module for module in ("venv", "ensurepip") if not have(module)]
    if missing:
        raise BootstrapError(
            "this Python ({}) has no module {}, which makes virtual environments. "
            "On Debian and Ubuntu: `sudo apt-get install python3-venv`".format(sys.executable, " and no ".join(missing))
        )


def choose_cupy(asked=None, installed=None, system=None, smi=None):
    """The extra of pyproject.toml that brings CuPy: "cuda13", "cuda12", or None where CuPy does not exist.

    asked: what the user asked for, if anything; smi: what nvidia-smi prints, "" without a driver; installed:
    what .venv has, which stays when there is no GPU to fit (one .venv may serve login and GPU nodes).
    """
    if (system or platform.system()) != "Linux":
        return None
    if asked:
        return asked
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # `python3 tools/bootstrap.py` has only tools/ there
    from tools import machine

    if smi is None:
        smi = machine.nvidia_smi() or ""
    newest = machine.driver_cuda(smi)
    if newest is None:
        return installed or "cuda13"
    return "cuda13" if newest >= (13, 0) else "cuda12"


def make_venv(venv):
    """A new environment in .venv, in place of an older one of ours. Its log is the mark that it is ours."""
    log = venv / "bootstrap.log"
    there = list(venv.iterdir()) if venv.is_dir() else []
    if there and log not in there:
        raise BootstrapError(
            "{} is there, but was not made by this command. Move it away; or keep it and run "
            "`make NO_VENV=1 PYTHON=.venv/bin/python ...`, which installs nothing".format(venv)
        )
    say("making .venv {}with Python {}".format("again, " if there else "", platform.python_version()))
    venv.mkdir(exist_ok=True)
    log.touch()
    for path in there:  # not the folder itself: it may be a link to a larger disk
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(str(path))
        elif path != log:
            path.unlink()
    # Not this Python if it is that of the .venv just emptied, but the one that made it.
    python = getattr(sys, "_base_executable", None) or sys.executable
    run_logged([python, "-m", "venv", str(venv)], log)


def run_logged(command, log):
    """Run a command with its output in the file `log`; on a terminal, show what pip is busy with on one line.

    Raises BootstrapError with the command and its last lines when it fails.
    """
    live = sys.stdout.isatty()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            errors="replace",
        )
        try:
            for line in process.stdout:
                file.write(line)
                if live and re.match(r"\s*(Collecting|Downloading|Using cached|Building|Installing) ", line):
                    width = shutil.get_terminal_size().columns - 5
                    print("\r\033[K    " + line.strip()[:width], end="", flush=True)
            process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
            if live:
                print("\r\033[K", end="", flush=True)
    if process.returncode:
        text = log.read_text(encoding="utf-8")
        raise BootstrapError(failure(command, process.returncode, text) + "\nall of it: {}".format(log))


def failure(command, code, output):
    """A failed command and the last lines that it printed."""
    last = "\n".join("    " + line for line in output.strip().splitlines()[-15:])
    return "this command failed with exit code {}:\n    {}\nits last lines:\n{}".format(code, " ".join(command), last)


def wanted_stamp(root, stamp, cupy=None):
    """The stamp of a .venv that is current; `stamp` is the one that it has."""
    return {
        "cupy": choose_cupy(cupy, stamp.get("cupy")),
        "pyproject": hashlib.sha256((root / "pyproject.toml").read_bytes()).hexdigest(),
        "python": platform.python_version(),
    }


def read_stamp(venv):
    """What .venv was made from; {} when it is not there or not finished."""
    try:
        stamp = json.loads((venv / "stamp.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(venv, stamp):
    part = venv / "stamp.json.part"
    part.write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
    os.replace(str(part), str(venv / "stamp.json"))


def python_of(venv):
    return venv / "bin" / "python"


def say(words):
    print("[.venv] " + words, flush=True)


if __name__ == "__main__":
    sys.exit(main())
