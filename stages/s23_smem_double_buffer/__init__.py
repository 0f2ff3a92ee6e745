from stages.common.record import Capability, Stage

STAGE = Stage(
    number=23,
    name="s23_smem_double_buffer",
    title="Double buffering",
    idea="Two K/V tiles in shared memory: the next travels during a whole iteration, and one barrier is enough.",
    parent="s22_eager_loads",
    capability=Capability(
        backend="cuda",
        dtypes=("float16", "bfloat16"),
        headdims=(64, 128),
        min_arch=80,
    ),
    tiles={"Br": 64, "Bc": 64, "num_warps": 4, "buffers": 2},
    idea_fields=("buffers",),
)
