"""Every configuration that s13's tuner may pick is right: which one it picks depends on the GPU and on the clock."""

import pytest
import torch

from reference import Case, check
from stages import get
from stages.common.where import where

STAGE = get("s13")

LENGTHS = ((256, 256), (384, 128), (200, 333), (333, 200))  # without a ragged tile, and with


@pytest.mark.parametrize("causal", (False, True), ids=("full", "causal"))
@pytest.mark.parametrize("headdim", (64, 128, 256))
@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_every_candidate_is_right(dtype, headdim, causal):
    if where(STAGE).kind != "gpu":
        pytest.skip("configurations are compiled for a GPU; the interpreter has one only, which test_stages covers")
    import triton.language as tl

    from stages.common.contract import prepare
    from stages.s13_triton_tuned import kernel

    legal = kernel.legal_configs(kernel.CANDIDATES, {}, d=headdim, DTYPE=getattr(tl, dtype))
    for config in legal:

        def attention(q, k, v, *, only=config, **options):
            call = prepare(STAGE, q, k, v, aligned=True, **options)
            with torch.cuda.device(q.device):
                kernel.launch(call, only=only)
            return call.finish()

        for seqlen_q, seqlen_k in LENGTHS:
            case = Case(dtype=dtype, headdim=headdim, seqlen_q=seqlen_q, seqlen_k=seqlen_k, causal=causal, nheads_k=1)
            verdict = check(STAGE, case, attention=attention)
            assert verdict.ok, (
                f"{config.kwargs}, {config.num_warps} warps, {config.num_stages} stages, {case}: {verdict}"
            )
