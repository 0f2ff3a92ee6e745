"""Every instantiation of every CUDA stage compiles for its real targets and spills nothing. That needs no GPU."""

import pytest

from stages import STAGES
from stages.common.where import installed

CUDA_STAGES = [stage for stage in STAGES if stage.capability.backend == "cuda"]
ELEMENT = {"float16": "f16", "bfloat16": "bf16"}


@pytest.mark.parametrize("arch", ("80", "89", "90a"))
@pytest.mark.parametrize("stage", CUDA_STAGES, ids=lambda stage: stage.short)
def test_compiles_without_spills(stage, arch):
    if not installed("cupy"):
        pytest.skip("needs CuPy and NVRTC, which are not installed")
    from tools.nvrtc import compile_for

    for dtype in stage.capability.dtypes:
        for headdim in stage.capability.headdims:
            for causal in ("false", "true"):
                name = f"attention_kernel<{ELEMENT[dtype]}, {headdim}, {causal}>"
                compiled = compile_for(stage, name, arch)
                assert compiled.cubin, name
                assert compiled.spilled == 0, f"{stage.name}, {name}, sm_{arch}: {compiled.log}"
                assert "warning" not in compiled.log.lower(), compiled.log


def test_a_broken_kernel_is_reported_with_its_line(tmp_path, monkeypatch):
    if not installed("cupy"):
        pytest.skip("needs CuPy and NVRTC, which are not installed")
    from tools import nvrtc

    stage = CUDA_STAGES[0]
    text = nvrtc.source(stage).replace("m_new = fmaxf(m_new, s);", "m_new = fmaxf(m_new, s)", 1)
    monkeypatch.setattr(nvrtc, "source", lambda stage: text)
    with pytest.raises(nvrtc.CompileError, match=r"kernel\.cu\(\d+\): error"):
        nvrtc.compile_for(stage, "attention_kernel<bf16, 64, false>", "80")
