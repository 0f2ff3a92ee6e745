"""The suite bites: every planted bug of tests/mutants.py fails the quick grid. `make mutants` prints what did."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest

from reference import Case, check, quick_grid
from stages import STAGES, Stage, get
from stages.common.where import installed, where
from tests.conftest import MUTANT, place_or_skip
from tests.mutants import MUTANTS, Mutant
from tools.emulator import KernelError


class OutOfDate(Exception):
    """A mutant's text is not in the kernel as it says."""


def mutate(text: str, mutant: Mutant) -> str:
    """`text` with every replacement made. Raises OutOfDate unless each old occurs once."""
    for old, new in mutant.replace:
        if text.count(old) != 1:
            raise OutOfDate(
                f"{mutant.name} is out of date: {old!r} occurs {text.count(old)} times in {mutant.stage}'s kernel, "
                "not once; tests/mutants.py has to follow the kernel"
            )
        text = text.replace(old, new)
    return text


class Copy(Stage):
    """A stage whose kernel file is another one."""

    kernel_file = None


def load(path: Path, name: str):
    """The module in `path`, under a name of its own. There has to be a file: Triton reads kernels' source from it."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def attention_of(stage: Stage, source: str, folder: Path):
    """The `attention` of `stage` with `source` for its kernel file."""
    kernel = folder / stage.kernel_file.name
    kernel.write_text(source, encoding="utf-8")
    name = f"copy_of_{stage.name}_in_{folder.name}"
    if stage.capability.backend != "cuda":
        return load(kernel, name).attention
    host = load(stage.folder / "stage.py", name)
    host.STAGE = Copy(**{field.name: getattr(stage, field.name) for field in dataclasses.fields(stage)})
    object.__setattr__(host.STAGE, "kernel_file", kernel)  # the record is frozen
    return host.attention


def cost(case: Case) -> int:
    return case.batch * case.nheads * case.seqlen_q * case.seqlen_k * case.headdim


def cases_here(stage: Stage) -> list[Case]:
    """The quick grid, as far as it runs here, cheapest first; of a CUDA stage, one compiled kernel's cases after the
    other's, for compiling takes longer than the cases do."""
    cases = sorted((c for c in quick_grid(stage) if where(stage, c.dtype)), key=cost)
    if stage.capability.backend != "cuda":
        return cases
    padded = stage.capability.padded_headdim
    return sorted(cases, key=lambda case: (case.dtype != "float16", padded(case.headdim), not case.causal))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # overflows are planted too
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant(mutant, tmp_path, record_property):
    stage = get(mutant.stage)
    source = mutate(stage.kernel_file.read_text(encoding="utf-8"), mutant)  # out of date wherever it runs

    def report(killed_by, how):
        record_property(MUTANT, (mutant.name, stage.name, mutant.what, str(killed_by), how))

    place = where(stage)
    if not place:
        report("not run", place.reason)
    place_or_skip(stage)
    attention = attention_of(stage, source, tmp_path)
    for case in cases_here(stage):
        try:
            verdict = check(stage, case, attention=attention)
        except KernelError as error:  # the emulator's verdict, and one on the kernel
            report(case, str(error.findings[0]))
            return
        except Exception as error:
            how = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            report(case, how)
            if not mutant.crashes:
                raise AssertionError(f"{mutant.name} crashes on {case}, and so proves nothing: {how}") from error
            return
        if not verdict.ok:
            report(case, verdict.problem)
            return
    report("survived", "")
    pytest.fail(f"{mutant.name} ({mutant.what}) survived the quick grid of {stage.name}")


@pytest.mark.parametrize(
    "stage", [s for s in STAGES if any(get(m.stage) is s for m in MUTANTS)], ids=lambda stage: stage.short
)
def test_an_unchanged_copy_survives(stage, tmp_path):
    """Being a copy is not what kills the mutants."""
    place_or_skip(stage)
    attention = attention_of(stage, stage.kernel_file.read_text(encoding="utf-8"), tmp_path)
    for case in cases_here(stage)[::8]:
        verdict = check(stage, case, attention=attention)
        assert verdict.ok, f"{case}: {verdict}"


@pytest.mark.parametrize(
    "mutant", [m for m in MUTANTS if get(m.stage).capability.backend == "cuda"], ids=lambda mutant: mutant.name
)
def test_a_cuda_mutant_compiles(mutant):
    """Without a GPU too: one that does not compile would prove nothing."""
    if not installed("cupy"):
        pytest.skip("needs CuPy and NVRTC, which are not installed")
    from tools import nvrtc

    stage = get(mutant.stage)
    headdim = stage.capability.headdims[0]
    arch = "90a" if stage.capability.min_arch >= 90 else str(stage.capability.min_arch)
    job = nvrtc.job(stage, f"attention_kernel<f16, {headdim}, true>", arch)
    assert nvrtc.run(dataclasses.replace(job, source=mutate(job.source, mutant))).cubin


def test_mutants_have_names_of_their_own():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert all(mutant.name.startswith(f"{mutant.stage}_") for mutant in MUTANTS)


def test_every_stage_has_mutants(stage):
    assert any(get(mutant.stage) is stage for mutant in MUTANTS), f"no mutant of {stage.name}"


@pytest.mark.parametrize("text", ("x = 2\n", "x = 1\nx = 1\n"))
def test_a_mutant_out_of_date_says_so(text):
    mutant = Mutant("s01_pretend", "s01", "nothing", (("x = 1", "x = 3"),))
    with pytest.raises(OutOfDate, match="s01_pretend is out of date.*tests/mutants.py"):
        mutate(text, mutant)
