from stages.common.record import Capability, Stage

STAGE = Stage(
    number=33,
    name="s33_lazy_rescale",
    title="Lazy rescaling",
    idea="Rescale O and l only when a maximum has grown past a bound: any reference near it will do.",
    parent="s32_schedule",
    capability=Capability(
        backend="cuda",
        dtypes=("float16", "bfloat16"),
        headdims=(64, 128),
        min_arch=80,
    ),
    tiles={"Br": 128, "tile_bytes": 16384, "Bc": 64, "num_warps": 4, "buffers": 2},
)
