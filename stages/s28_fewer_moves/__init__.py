from stages.common.record import Capability, Stage

STAGE = Stage(
    number=28,
    name="s28_fewer_moves",
    title="Fewer moves",
    idea="Permute the lanes of an ldmatrix of K so that both registers of a B operand come out as neighbours.",
    parent="s27_fp32_throughput",
    capability=Capability(
        backend="cuda",
        dtypes=("float16", "bfloat16"),
        headdims=(64, 128),
        min_arch=80,
    ),
    tiles={"Br": 64, "Bc": 64, "num_warps": 4, "buffers": 2},
)
