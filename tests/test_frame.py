"""The repository's frame: make's targets, the set-up, the doctor, and that every command answers --help."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stages import STAGES
from tools import bootstrap, machine

ROOT = Path(__file__).resolve().parent.parent

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def run(*command, **variables) -> subprocess.CompletedProcess:
    """Run a command from the root, outside any outer make, and return what it printed."""
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "NO_VENV", "PYTHON", "STAGE")
    environment = {k: v for k, v in os.environ.items() if k not in outer}
    environment |= {"COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"} | variables
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", timeout=300
    )


# -------------------------------------------------------------------------------- make

PHONY = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())


@needs_make
def test_make_alone_lists_every_target():
    listing = run("make")
    assert listing.returncode == 0, listing.stderr
    listed = dict(re.findall(r"^  make (\S+) +(\S.*)$", listing.stdout, re.MULTILINE))
    assert set(listed) == PHONY - {"venv"}  # the set-up's own target is not for people
    for target in listed:
        dry = run("make", "-n", target, "STAGE=s01")
        assert dry.returncode == 0, f"make {target}: {dry.stderr}"


@needs_make
@pytest.mark.parametrize("target", sorted(PHONY - {"help", "doctor", "clean", "venv"}))
def test_no_venv_uses_the_python_at_hand(target):
    given = run("make", "-n", target, "STAGE=s01", "NO_VENV=1", "PYTHON=some-python").stdout
    assert "some-python -m" in given and "bootstrap" not in given and ".venv" not in given
    without = run("make", "-n", target, "STAGE=s01", "PYTHON=some-python").stdout
    assert "some-python tools/bootstrap.py" in without and ".venv/bin/python -m" in without


@needs_make
@pytest.mark.parametrize("user, allowed", (("0", True), ("1000", False), ("10", False)))
def test_the_lab_starts_for_root_too(user, allowed, tmp_path):
    """Jupyter refuses root, which containers run as, unless it is told."""
    (tmp_path / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (tmp_path / "id").chmod(0o755)
    recipe = run("make", "-n", "lab", "LAB_ARGS=--no-browser", PATH=f"{tmp_path}:{os.environ['PATH']}").stdout
    assert ("--allow-root" in recipe) == allowed and recipe.rstrip().endswith("--no-browser")
    assert f'PATH="{ROOT}/.venv/bin:$PATH"' in recipe, "a terminal in it has the same python"


def test_who_is_told_to_type_python_is_told_which():
    """A system's own python has no torch."""
    pages = (*(ROOT / "docs" / "checks").glob("*.md"), ROOT / "docs" / "paths.md", ROOT / "tools/emulator/README.md",
             *ROOT.glob("stages/*/README.md"))  # fmt: skip
    bare = re.compile(r"(?<!\.venv/bin/)python -m tools")
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not bare.search(text) or ".venv/bin/activate" in text, f"{page.relative_to(ROOT)}: which python?"


@needs_make
def test_the_doctor_installs_nothing():
    assert "bootstrap" not in run("make", "-n", "doctor").stdout


@needs_make
def test_check_without_a_stage_says_how():
    asked = run("make", "check")
    assert asked.returncode == 2
    assert "make check STAGE=s12" in asked.stderr


def test_continuous_integration_runs_the_readme_command():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert commands == ["set -euo pipefail", 'cd "$(dirname "${BASH_SOURCE[0]}")/.."', "make test"]


# -------------------------------------------------------------------------------- commands


def commands() -> list[str]:
    """The modules that `python -m` runs: tools/NAME.py with a main, tools/NAME/ with a __main__.py."""
    tools = ROOT / "tools"
    files = [path.stem for path in tools.glob("*.py") if '__name__ == "__main__"' in path.read_text()]
    packages = [path.parent.name for path in tools.glob("*/__main__.py")]
    return sorted(f"tools.{name}" for name in (*files, *packages))


@pytest.mark.parametrize("command", commands())
def test_help(command):
    asked = run(sys.executable, "-m", command, "--help")
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith("usage: ")


@pytest.mark.parametrize("command", commands())
def test_a_wrong_option_is_a_usage_error(command):
    asked = run(sys.executable, "-m", command, "--no-such-option")
    assert asked.returncode == 2, asked.stderr
    assert "usage: " in asked.stderr and "Traceback" not in asked.stderr


@needs_make
def test_make_runs_only_commands_that_are_there():
    recipes = "".join(run("make", "-n", target, "STAGE=s01").stdout for target in sorted(PHONY))
    asked = set(re.findall(r"-m (tools[.\w]+)", recipes))
    assert len(asked) > 10
    for name in asked - set(commands()):  # inside a package: tools.lesson.record_listings
        file = (ROOT / name.replace(".", "/")).with_suffix(".py")
        assert file.is_file() and '__name__ == "__main__"' in file.read_text(encoding="utf-8"), name


# ---------------------------------------------------------------------------------------------------- set-up

HEADER = "| NVIDIA-SMI {driver}    {label}: {driver}    CUDA{umd} Version: {cuda}    |\n"


def smi(driver="550.54.15", cuda="12.4", umd="", label="Driver Version") -> str:
    return "Mon Jan  1 00:00:00\n+-----+\n" + HEADER.format(driver=driver, cuda=cuda, umd=umd, label=label)


@pytest.mark.parametrize(
    "output, newest, extra",
    [
        (smi("550.54.15", "12.4"), (12, 4), "cuda12"),
        (smi("535.183.01", "12.2"), (12, 2), "cuda12"),
        (smi("580.65.06", "13.0"), (13, 0), "cuda13"),
        (smi("590.44.01", "13.1", umd=" UMD"), (13, 1), "cuda13"),
        (smi("580.65.06", "N/A"), (13, 0), "cuda13"),
        (smi("570.86.10", "ERR!"), (12, 0), "cuda12"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", None, "cuda13"),
        ("", None, "cuda13"),
    ],
)
def test_cupy_fits_the_driver(output, newest, extra):
    assert machine.driver_cuda(output) == newest
    assert bootstrap.choose_cupy(system="Linux", smi=output) == extra
    project = (ROOT / "pyproject.toml").read_text()
    assert re.search(rf"^{extra} = \[$", project, re.MULTILINE), "an extra that pyproject.toml has"


def test_cupy_as_asked_and_as_it_was():
    assert bootstrap.choose_cupy("cuda12", system="Linux", smi=smi(cuda="13.0")) == "cuda12"
    assert bootstrap.choose_cupy(installed="cuda12", system="Linux", smi="") == "cuda12", "no GPU: nothing to fit"
    assert bootstrap.choose_cupy(installed="cuda12", system="Linux", smi=smi("580.65.06", "13.0")) == "cuda13"
    assert bootstrap.choose_cupy(system="Darwin", smi="") is None


@pytest.mark.parametrize(
    "given, words",
    [
        ({"version": (3, 9, 18)}, ("this is Python 3.9.18", "3.10 or newer", "PYTHON=")),
        ({"have": lambda module: module != "ensurepip"}, ("no module ensurepip", "python3-venv")),
        ({"have": lambda module: False}, ("no module venv and no ensurepip", "python3-venv")),
        ({"system": "Windows"}, ("WSL2",)),
    ],
)
def test_what_cannot_make_an_environment_is_told_the_remedy(given, words):
    with pytest.raises(bootstrap.BootstrapError) as refused:
        bootstrap.check_python(**given)
    for word in words:
        assert word in str(refused.value)


def test_a_python_that_is_old_enough_passes():
    bootstrap.check_python((3, 10, 0), have=lambda module: True, system="Linux")
    bootstrap.check_python((3, 10, 0), have=lambda module: True, system="Darwin")


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """The commands that the set-up runs, "venv" and "install", of which only the traces are made."""
    made = []

    def run_logged(command, log):
        assert log.parent.is_dir()
        made.append(command[command.index("-m") + 1].replace("pip", "install"))
        (log.parent / "bin").mkdir(exist_ok=True)
        (log.parent / "bin" / "python").touch()

    monkeypatch.setattr(bootstrap, "check_python", lambda: None)
    monkeypatch.setattr(bootstrap, "run_logged", run_logged)
    return made


@pytest.fixture
def project(tmp_path) -> Path:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\nversion = '1'\n")
    return tmp_path


@pytest.fixture
def set_up(project, calls):
    """set_up(*arguments): the set-up's exit code in that project, and the commands that it ran."""

    def run_it(*arguments) -> tuple[int, list[str]]:
        calls.clear()
        return bootstrap.main(["--cupy", "cuda13", *arguments], root=project), list(calls)

    return run_it


def test_an_environment_is_made_once(set_up):
    assert set_up() == (0, ["venv", "install"])
    assert set_up() == (0, [])


def test_new_dependencies_are_installed_into_it(project, set_up):
    set_up()
    with (project / "pyproject.toml").open("a") as file:
        file.write("dependencies = ['y']\n")
    assert set_up() == (0, ["install"])
    assert set_up() == (0, [])


def test_another_cuda_or_python_makes_it_anew(set_up, monkeypatch):
    set_up()
    assert set_up("--cupy", "cuda12") == (0, ["venv", "install"])
    monkeypatch.setattr(bootstrap.platform, "python_version", lambda: "3.99.0")
    assert set_up("--cupy", "cuda12") == (0, ["venv", "install"])


def test_a_lost_python_makes_it_anew(project, set_up):
    set_up()
    (project / ".venv" / "bin" / "python").unlink()
    assert set_up() == (0, ["venv", "install"])


@pytest.mark.parametrize("error, code", [(KeyboardInterrupt(), 130), (bootstrap.BootstrapError("no"), 1)])
def test_an_unfinished_install_leaves_no_stamp(project, set_up, monkeypatch, error, code):
    def fail(command, log):
        raise error

    set_up()
    (project / "pyproject.toml").write_text("[project]\nname = 'x'\nversion = '2'\n")
    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "run_logged", fail)
        assert set_up() == (code, [])
    assert bootstrap.read_stamp(project / ".venv") == {}
    assert set_up() == (0, ["venv", "install"]), "half an install is not built upon"


def test_an_environment_of_somebody_else_is_left_alone(project, set_up, capsys):
    theirs = project / ".venv" / "bin" / "python"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    assert set_up() == (1, [])
    assert theirs.read_text() == "theirs"
    assert "NO_VENV=1" in capsys.readouterr().err


def test_a_link_to_a_larger_disk_stays(project, set_up, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    (project / ".venv").symlink_to(disk)
    (disk / "bootstrap.log").touch()
    (disk / "old").mkdir()
    assert set_up() == (0, ["venv", "install"])
    assert (project / ".venv").is_symlink() and not (disk / "old").exists()


def test_a_damaged_stamp_counts_as_none(project, set_up):
    set_up()
    (project / ".venv" / "stamp.json").write_text("[1")
    assert set_up() == (0, ["venv", "install"])


def test_a_failed_command_is_told_with_its_last_lines(tmp_path):
    script = "import sys\nfor i in range(40): print('line', i)\nsys.exit(3)"
    with pytest.raises(bootstrap.BootstrapError) as failed:
        bootstrap.run_logged([sys.executable, "-c", script], tmp_path / "log")
    text = str(failed.value)
    assert "exit code 3" in text and sys.executable in text
    assert "line 39" in text and "line 25" in text and "line 24" not in text
    assert str(tmp_path / "log") in text and "line 0\n" in (tmp_path / "log").read_text()


# -------------------------------------------------------------------------------- doctor


@pytest.fixture(scope="module", params=("as it is", "nothing installed"))
def doctor(request) -> subprocess.CompletedProcess:
    bare = ["-S"] if request.param == "nothing installed" else []
    result = run(sys.executable, *bare, "-m", "tools.doctor")
    result.bare = bool(bare)
    return result


def test_the_doctor_tells_of_every_stage(doctor):
    assert "Traceback" not in doctor.stderr
    for stage in STAGES:
        assert re.search(rf"^ *{stage.name} ", doctor.stdout, re.MULTILINE), doctor.stdout
    for word in ("Python", "PyTorch", "Triton", "CuPy", "NVRTC", "C++ compiler", "NVIDIA driver", "GPU"):
        assert word in doctor.stdout


def test_the_doctor_exits_0_when_a_stage_runs(doctor):
    assert doctor.returncode == (1 if doctor.bare else 0), doctor.stdout
    if doctor.bare:
        assert "needs PyTorch, which is not installed" in doctor.stdout
        assert "To get what is missing:" in doctor.stdout


def test_the_doctor_without_a_venv_names_the_install_command():
    told = run(sys.executable, "-S", "-m", "tools.doctor", NO_VENV="1")
    assert "-m pip install '.[dev" in " ".join(told.stdout.split())


def test_a_broken_library_is_told(tmp_path):
    from tools import doctor

    (tmp_path / "brokenlib.py").write_text("raise OSError('libsomething.so.1: no such file')")
    (tmp_path / "deadlylib.py").write_text("import os; os._exit(77)")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        errors = doctor.import_errors(["json", "brokenlib", "deadlylib", "csv"])
    assert set(errors) == {"brokenlib", "deadlylib"}
    assert "libsomething" in errors["brokenlib"] and "77" in errors["deadlylib"]


@pytest.fixture
def turing(monkeypatch):
    """A machine with one sm_75 GPU, as free cloud notebooks have, and no emulator."""
    from stages.common import where

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(where, "emulator_lacks", lambda: "the emulator needs a C++ compiler")
    monkeypatch.setattr(where, "gpu_arch", lambda: 75)
    gpu = machine.Gpu("Tesla T4", 75, 15 << 30)
    here = machine.machine()
    return dataclasses.replace(here, gpus=(gpu,), torch_sees_gpu=True, driver="550.54.15", driver_cuda=(12, 4))


def test_the_doctor_knows_what_turing_lacks(turing):
    from tools import doctor

    rows, reasons = doctor.stage_rows()
    for stage, row in zip(STAGES, rows, strict=True):
        runs_on = {"numpy": "CPU", "triton": "GPU", "cuda": "not here"}[stage.capability.backend]
        assert row[:3] == (stage.name, stage.title, runs_on)
        if stage.capability.backend == "triton" and "bfloat16" in stage.capability.dtypes:
            assert "no bfloat16" in row[3]
    assert any("8.0 or newer" in reason and "7.5" in reason for reason in reasons)
    told = " ".join(doctor.remarks(turing, rows))
    assert "Tesla T4" in told and "no cp.async and no bf16 mma" in told and "sm_80" in told


def test_a_gpu_that_pytorch_does_not_see_is_told(turing):
    from tools import doctor

    packages = turing.packages | {"torch": "2.13.0"}
    unseen = dataclasses.replace(turing, torch_sees_gpu=False, torch_cuda="13.0", packages=packages)
    assert "newer than the driver serves" in " ".join(doctor.remarks(unseen, []))
    unseen = dataclasses.replace(unseen, torch_cuda=None)
    assert "without CUDA" in " ".join(doctor.remarks(unseen, []))


# -------------------------------------------------------------------------------- machine


def test_environment_is_what_a_results_file_can_hold():
    told = json.loads(json.dumps(machine.environment(), allow_nan=False))
    for key in ("device", "python", "platform", "cpu", "torch", "date"):
        assert told[key], key
    assert told["date"].endswith("+00:00")
    assert set(machine.DISTRIBUTIONS) | {"driver", "driver_cuda", "cuda", "commit", "clocks"} <= set(told)


def test_machine_needs_only_the_standard_library():
    heavy = "{'torch', 'numpy', 'triton', 'cupy', 'rich'}"
    code = f"import sys, tools.machine; sys.exit(bool({heavy} & set(sys.modules)))"
    assert run(sys.executable, "-c", code).returncode == 0
    bare = run(sys.executable, "-S", "-c", "from tools.machine import environment; print(environment())")
    assert bare.returncode == 0, bare.stderr
    assert "'torch': None" in bare.stdout


# -------------------------------------------------------------------------------- hygiene


def test_no_path_of_a_machine_in_the_repository():
    """Nobody else has the home folder that a path under it names."""
    listing = run("git", "ls-files", "-z")
    if listing.returncode:
        pytest.skip("this is no git checkout, so nothing says which files are the repository's")
    own_path = re.compile(rb"(?<![\w.:/-])/(?:home|Users|root|work|farm|mnt)/\w[^\s\"')]*")
    found = []
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes())[:8192]:
            found += [f"{name}: {match[0].decode(errors='replace')}" for match in own_path.finditer(content)]
    assert not found, "\n".join(found)
