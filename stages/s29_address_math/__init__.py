from stages.common.record import Capability, Stage

STAGE = Stage(
    number=29,
    name="s29_address_math",
    title="Address arithmetic",
    idea="Compute the swizzled place once a thread; every further one is a constant XOR and a constant distance away.",
    parent="s28_fewer_moves",
    capability=Capability(
        backend="cuda",
        dtypes=("float16", "bfloat16"),
        headdims=(64, 128),
        min_arch=80,
    ),
    tiles={"Br": 64, "Bc": 64, "num_warps": 4, "buffers": 2},
)
