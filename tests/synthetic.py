"""A results file with known answers, for the tests of what reads results files. The figures are made up."""

from tools.bench.shapes import HEADDIMS, NUMPY_SEQLENS, SEQLENS, grid_shape, numpy_shape

DEVICE, CPU = "NVIDIA Synthetic 9000", "Synthetic CPU"
RUN = "2031-02-03T04:05:06+00:00"

# (head dim, causal) -> TFLOP/s of FlashAttention-2 at SEQLENS; the others are multiples of it.
FA2 = {
    (64, False): (251, 290, 299, 301, 306, 303),
    (64, True): (155, 217, 260, 281, 293, 302),
    (128, False): (308, 336, 349, 356, 357, 351),
    (128, True): (184, 250, 283, 301, 317, 322),
}
TIMES_FA2 = {
    "s12_triton_v2": 0.6,
    "s13_triton_tuned": 1.5,
    "s20_mma": 0.16,
    "torch_fa2": 1.0,
    "torch_cudnn": 1.9,
    "torch_efficient": 0.55,
    "flex": 1.2,
}
V1_TFLOPS = (30, 26, 18, 10, 5, 2.6)


def record(name, shape, tflops, *, peak_bytes=0, where="gpu", run=RUN, **changes):
    """One timed record whose samples lie 1 % to each side of the median."""
    ms = shape.flops / tflops / 1e9
    made = {
        "name": name,
        "kind": "stage" if name.startswith("s") else "peer",
        "where": where,
        "device": DEVICE if where == "gpu" else CPU,
        "dtype": "bfloat16" if where == "gpu" else "float32",
        "batch": shape.batch,
        "nheads": shape.nheads,
        "nheads_k": shape.nheads_k,
        "seqlen_q": shape.seqlen_q,
        "seqlen_k": shape.seqlen_k,
        "headdim": shape.headdim,
        "causal": shape.causal,
        "mode": "fwd",
        "max_error": 1e-3,
        "bound": 2e-3,
        "ms_median": ms,
        "ms_p10": 0.99 * ms,
        "ms_p90": 1.01 * ms,
        "tflops": tflops,
        "peak_bytes": int(peak_bytes),
        "ms_samples": [0.99 * ms] * 3 + [ms] * 4 + [1.01 * ms] * 3,
        "run": run,
    }
    return made | changes


def failed(made, error="out of memory"):
    kept = {
        key: value for key, value in made.items() if not key.startswith("ms_") and key not in ("tflops", "peak_bytes")
    }
    return kept | {"error": error, "max_error": None, "bound": None}


def environment(**changes):
    return {
        "device": DEVICE,
        "driver": "1.2",
        "date": RUN,
        "commit": "0" * 40,
        "sms": 132,
        "ceilings": {"copy_tb_per_s": 4.25, "matmul_tflops": 798.0, "matmul_dtype": "bfloat16"},
    } | changes


def gpu_records(run=RUN):
    made = []
    for headdim in HEADDIMS:
        for causal in (False, True):
            for i, seqlen in enumerate(SEQLENS):
                shape = grid_shape(seqlen, headdim, causal)
                base = FA2[headdim, causal][i]
                rows = shape.batch * shape.nheads * seqlen
                outputs = rows * (2 * headdim + 4)
                v1 = record(
                    "s11_triton_v1",
                    shape,
                    V1_TFLOPS[i],
                    peak_bytes=outputs + rows * (4 * headdim + 8),
                    run=run,
                )
                made.append(v1)
                made += [record(n, shape, base * f, peak_bytes=outputs, run=run) for n, f in TIMES_FA2.items()]
                math = record("torch_math", shape, 25.0, peak_bytes=outputs + 12 * rows * seqlen, run=run)
                made.append(failed(math) if headdim == 64 and seqlen == SEQLENS[-1] else math)
    return made


def host_records(run=RUN):
    made = []
    for seqlen in NUMPY_SEQLENS:
        shape = numpy_shape(seqlen, 64, False)
        made.append(record("s01_naive", shape, 0.05, peak_bytes=12 * seqlen**2, where="host", run=run))
        made.append(record("s02_online_softmax", shape, 0.03, peak_bytes=800 * seqlen, where="host", run=run))
    return made


def records():
    return gpu_records() + host_records()
