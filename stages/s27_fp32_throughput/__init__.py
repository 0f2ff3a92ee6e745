from stages.common.record import Capability, Stage

STAGE = Stage(
    number=27,
    name="s27_fp32_throughput",
    title="FP32 throughput",
    idea="Fold the scale and log2(e) into the exponent: one multiply-add and one exp2 an element.",
    parent="s26_peel_first_block",
    capability=Capability(
        backend="cuda",
        dtypes=("float16", "bfloat16"),
        headdims=(64, 128),
        min_arch=80,
    ),
    tiles={"Br": 64, "Bc": 64, "num_warps": 4, "buffers": 2},
)
