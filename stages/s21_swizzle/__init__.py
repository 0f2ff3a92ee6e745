from stages.common.record import Capability, Stage

STAGE = Stage(
    number=21,
    name="s21_swizzle",
    title="Swizzled shared memory",
    idea="XOR the 16-byte chunk with its row's number: the eight rows of an ldmatrix lie in different banks.",
    parent="s20_mma",
    capability=Capability(
        backend="cuda",
        dtypes=("float16", "bfloat16"),
        headdims=(64, 128),
        min_arch=80,
    ),
    tiles={"Br": 64, "Bc": 64, "num_warps": 4},
)
