"""The registry and the records: what is true of every stage whether or not it runs here."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import stages.common.where as where_module
from stages import STAGES, Capability, Stage, Unsupported, get
from stages.common.record import BACKENDS
from stages.common.where import gpu_arch, where
from tools.regions import RegionError, find_regions

ROOT = Path(__file__).resolve().parent.parent


def run_python(code: str, **environment) -> str:
    """What `code` prints in a Python of its own, started in the root."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- finding a stage ---------------------------------------------------------------------------------------


def test_stages_are_in_order():
    assert [s.name for s in STAGES] == sorted(s.name for s in STAGES)
    assert len({s.number for s in STAGES}) == len(STAGES)


def test_get(stage):
    for name in (stage.name, stage.short, str(stage.number), stage.number, f" {stage.short} "):
        assert get(name) is stage


@pytest.mark.parametrize("name", ("s99", "99", 99, "", "s1", "flash", "s12_triton"))
def test_get_of_an_unknown_stage(name):
    with pytest.raises(KeyError) as raised:
        get(name)
    message = str(raised.value)
    assert repr(name) in message and all(stage.name in message for stage in STAGES)


def test_get_guesses_what_was_meant():
    with pytest.raises(KeyError, match="did you mean s12_triton_v2"):
        get("s12_triton_v3")


# ---- records -----------------------------------------------------------------------------------------------


def test_record(stage):
    assert (ROOT / "stages" / stage.name).is_dir() and stage.kernel_file.is_file()
    assert stage.title and len(stage.idea) > 40 and stage.idea.endswith(".")
    assert stage.capability.backend in BACKENDS and stage.capability.dtypes
    assert stage.parent is None or get(stage.parent).number < stage.number
    assert set(stage.idea_fields) <= set(stage.tiles)
    if stage.capability.backend == "cuda":
        assert stage.capability.min_arch > 0


def test_tiles_are_the_parents_but_for_the_idea(stage):
    """Otherwise nobody can tell whether the technique or the tiles made the difference."""
    if stage.parent is None or stage.new_base:
        pytest.skip(f"{stage.name} starts afresh")
    parent = get(stage.parent)
    for field in stage.tiles.keys() | parent.tiles.keys():
        if field not in stage.idea_fields:
            mine, theirs = stage.tiles.get(field), parent.tiles.get(field)
            assert mine == theirs, (
                f"tiles[{field!r}] is {mine}, {parent.name} has {theirs}, and it is not in idea_fields"
            )


HEADINGS = ("idea", "prediction", "measured", "not fix")


def test_card(stage):
    """The idea, a prediction made before measuring, what was measured, what it does not fix yet."""
    card = stage.folder / "README.md"
    assert card.is_file(), f"{stage.name} has no card"
    text = card.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    assert headings and stage.short in headings[0], f"the card's title is {headings[:1]}"
    for wanted in HEADINGS:
        assert any(wanted in heading.lower() for heading in headings), f"no heading with {wanted!r} in {headings}"


def test_solution_regions(stage):
    regions = find_regions(stage.kernel_file)
    assert regions, f"{stage.kernel_file} has no solution region"
    for region in regions:
        assert region.end > region.begin + 1, f"{region.name} is empty"
        assert len(region.hint) > 20, f"{region.name} has no hint to speak of"


def test_kernel_says_what_it_is(stage):
    """The file opens with the stage's name, and says what it is in a line."""
    first = stage.kernel_file.read_text(encoding="utf-8").splitlines()[0].lstrip('/"# ')
    assert first.startswith(f"{stage.name}: ")


@pytest.mark.parametrize(
    "fields, says",
    (
        (dict(backend="opencl"), "backend is 'opencl'.*accepted: numpy, triton, cuda"),
        (dict(headdims=(64, 32)), r"headdims is \(64, 32\).*accepted: ascending"),
        (dict(headdims=(64, 64)), "headdims is"),
    ),
)
def test_bad_capability(fields, says):
    with pytest.raises(ValueError, match=says):
        Capability(**({"backend": "numpy", "dtypes": ("float32",)} | fields))


def test_name_has_the_number():
    with pytest.raises(ValueError, match="name is 's13_x'; accepted: s12_"):
        dataclasses.replace(get("s12"), name="s13_x")


def test_padded_headdim():
    capability = Capability("cuda", ("float16",), headdims=(64, 128), min_arch=80)
    assert [capability.padded_headdim(d) for d in (1, 63, 64, 65, 128)] == [64, 64, 64, 128, 128]
    with pytest.raises(Unsupported, match="headdim is 129; accepted: 1 to 128"):
        capability.padded_headdim(129)
    assert Capability("numpy", ("float32",)).padded_headdim(1000) == 1000


# ---- without a backend -------------------------------------------------------------------------------------


def test_the_registry_imports_no_backend():
    """On a machine without any of them, what there is can still be listed."""
    printed = run_python(
        """
        import sys
        for backend in ("numpy", "torch", "triton", "cupy"):
            sys.modules[backend] = None  # importing it raises ModuleNotFoundError
        from stages import STAGES, get
        print(*(stage.name for stage in STAGES))
        assert get("s12").title
        """
    )
    assert printed.split() == [s.name for s in STAGES]


@pytest.mark.parametrize("package", ("triton", "cupy", "torch"))
def test_a_stage_without_its_backend_says_so(package):
    """Only what needs the package is affected, and the message names it."""
    printed = run_python(
        f"""
        import sys
        sys.modules[{package!r}] = None
        from stages import STAGES, StageUnavailable
        from stages.common.where import where
        for stage in STAGES:
            place = where(stage)
            try:
                stage.attention
                loaded = "loads"
            except StageUnavailable as error:
                loaded = str(error)
            print(stage.capability.backend, place.kind, place.reason, loaded, sep="|")
        """
    )
    needs = {"triton": ("triton",), "cupy": ("cuda",), "torch": BACKENDS}[package]
    for line in printed.splitlines():
        backend, kind, reason, loaded = line.split("|")
        if backend not in needs:
            assert loaded == "loads" or package not in loaded, line
        elif backend != "cuda" or package == "torch":
            assert kind == "None" and package in reason.lower() and "not installed" in reason, line
            assert repr(package) in loaded and "make doctor" in loaded, line


# ---- where a stage runs ------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """machine(arch, lacks=()): pretend to have that GPU (None: none) and Triton 3.4, and to lack those packages."""

    def pretend(arch: int | None, lacks: tuple[str, ...] = ()):
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        monkeypatch.setattr(where_module, "gpu_arch", lambda: arch)
        monkeypatch.setattr(where_module, "triton_version", lambda: (3, 4))
        monkeypatch.setattr(where_module, "installed", lambda package: package not in lacks)
        monkeypatch.setattr(where_module, "emulator_lacks", lambda: "needs a compiler" if "c++" in lacks else None)

    return pretend


def a_stage(backend: str, **fields) -> Stage:
    capability = Capability(backend, ("float16", "bfloat16", "float32"), **fields)
    return Stage(98, "s98_pretend", "Pretend", "None.", None, capability)


NO_EMULATOR = ("c++",)


@pytest.mark.parametrize(
    "backend, min_arch, arch, lacks, dtype, kind, says",
    (
        ("numpy", 0, None, (), "float32", "host", "NumPy"),
        ("numpy", 0, 90, (), "float32", "host", "NumPy"),
        ("numpy", 0, 90, (), "float64", None, "takes float16, bfloat16, float32, not float64"),
        ("numpy", 0, 90, ("torch",), None, None, "PyTorch, which is not installed"),
        ("triton", 75, None, (), "float16", "interpreter", "interpreter"),
        ("triton", 75, None, (), "bfloat16", None, "bfloat16"),
        ("triton", 75, None, ("triton",), "float16", None, "Triton, which is not installed"),
        ("triton", 75, 90, (), "bfloat16", "gpu", "GPU"),
        ("triton", 75, 75, (), "float16", "gpu", "GPU"),
        ("triton", 75, 75, (), "bfloat16", None, "8.0 or newer; this GPU has 7.5"),
        ("triton", 90, 80, (), "float16", None, "9.0 or newer; this GPU has 8.0"),
        ("cuda", 80, 90, NO_EMULATOR, "bfloat16", "gpu", "GPU"),
        ("cuda", 80, 75, NO_EMULATOR, "float16", None, "8.0 or newer, and this one has 7.5; needs a compiler"),
        ("cuda", 80, None, NO_EMULATOR, "float16", None, "8.0 or newer, and no GPU was found; needs a compiler"),
        ("cuda", 80, 90, ("cupy", *NO_EMULATOR), "float16", None, "CuPy, which is not installed; needs a compiler"),
        ("cuda", 80, None, (), "float16", "emulator", "emulator"),
        ("cuda", 90, 80, (), "float16", "emulator", "emulator"),
    ),
)
def test_where(machine, backend, min_arch, arch, lacks, dtype, kind, says):
    machine(arch, lacks)
    place = where(a_stage(backend, min_arch=min_arch), dtype)
    assert place.kind == kind and bool(place) == (kind is not None)
    assert says in place.reason
    assert place.device == ("cuda" if kind == "gpu" else "cpu")


@pytest.mark.parametrize("arch", (None, 90))
@pytest.mark.parametrize("min_triton, runs", (((3, 0), True), ((3, 4), True), ((3, 5), False), ((3, 10), False)))
def test_oldest_triton(machine, arch, min_triton, runs):
    machine(arch)
    place = where(a_stage("triton", min_arch=75, min_triton=min_triton), "float16")
    assert bool(place) == runs
    assert runs or place.reason == f"needs Triton 3.{min_triton[1]} or newer; 3.4 is installed"


def test_interpreter_on_request(machine, monkeypatch):
    machine(90)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert where(a_stage("triton", min_arch=75), "float16").kind == "interpreter"


# ---- solution regions --------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path):
    def write(text: str, name: str = "kernel.py") -> Path:
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write


def test_regions(source):
    path = source(
        """\
        x = 1
        # BEGIN SOLUTION first: add the parts: all of them
        y = 2
        # END SOLUTION
            # BEGIN SOLUTION second: hint
            # END SOLUTION
        # the end of the solution, and BEGIN SOLUTION in prose, are no markers
        """
    )
    first, second = find_regions(path)
    assert (first.name, first.hint, first.begin, first.end) == ("first", "add the parts: all of them", 2, 4)
    assert (second.name, second.hint, second.begin, second.end) == ("second", "hint", 5, 6)


@pytest.mark.parametrize("name", ("kernel.cu", "ptx.cuh"))
def test_regions_in_cuda(source, name):
    (region,) = find_regions(source("  // BEGIN SOLUTION a: hint\n  f();\n  // END SOLUTION\n", name))
    assert (region.name, region.begin, region.end) == ("a", 1, 3)


@pytest.mark.parametrize(
    "text, line, says",
    (
        ("x\n# BEGIN SOLUTION a: hint\nx\n", 2, "'a' is not closed"),
        ("# END SOLUTION\n", 1, "without a BEGIN"),
        ("# BEGIN SOLUTION a: h\n# END SOLUTION\n# END SOLUTION\n", 3, "without a BEGIN"),
        (
            "# BEGIN SOLUTION a: h\n# BEGIN SOLUTION b: h\n# END SOLUTION\n",
            2,
            "inside the region 'a' of line 1",
        ),
        ("# BEGIN SOLUTION\n# END SOLUTION\n", 1, "accepted: BEGIN SOLUTION name: hint"),
        ("# BEGIN SOLUTION a\n# END SOLUTION\n", 1, "accepted: BEGIN SOLUTION name: hint"),
        ("# BEGIN SOLUTION a:\n# END SOLUTION\n", 1, "accepted: BEGIN SOLUTION name: hint"),
        ("# BEGIN SOLUTION: hint\n# END SOLUTION\n", 1, "accepted: BEGIN SOLUTION name: hint"),
        ("# BEGIN SOLUTION two words: hint\n# END SOLUTION\n", 1, "accepted: BEGIN SOLUTION name: hint"),
        (
            "#BEGIN SOLUTION a: h\n#END SOLUTION\n#BEGIN SOLUTION a: h\n#END SOLUTION\n",
            3,
            "second region 'a'",
        ),
    ),
)
def test_bad_regions(source, text, line, says):
    path = source(text)
    with pytest.raises(RegionError) as raised:
        find_regions(path)
    assert f"{path}, line {line}" in str(raised.value) and says in str(raised.value)


def test_regions_of_another_kind_of_file(source):
    with pytest.raises(RegionError, match="accepted: .py, .cu, .cuh"):
        find_regions(source("", "kernel.rs"))


def test_triton_imported_too_early_is_said_plainly():
    """Without a GPU; the interpreter would otherwise die inside the kernel, on a message about @triton.jit."""
    if gpu_arch() is not None:
        pytest.skip("there is a GPU: Triton compiles, whenever it is imported")
    code = (
        "import triton.language, torch\n"
        "from stages import StageUnavailable, get\n"
        "try: get('s12').attention\n"
        "except StageUnavailable as error: print(error)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "TRITON_INTERPRET=1" in done.stdout, done.stderr
