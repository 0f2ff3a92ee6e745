from stages.common.record import Capability, Stage

STAGE = Stage(
    number=24,
    name="s24_fragment_pipeline",
    title="Fragment pipeline",
    idea="Load the next fragment from shared memory into a second set of registers before the mma that use this one.",
    parent="s23_smem_double_buffer",
    capability=Capability(
        backend="cuda",
        dtypes=("float16", "bfloat16"),
        headdims=(64, 128),
        min_arch=80,
    ),
    tiles={"Br": 64, "Bc": 64, "num_warps": 4, "buffers": 2},
)
