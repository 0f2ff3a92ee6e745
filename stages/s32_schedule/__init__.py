from stages.common.record import Capability, Stage

STAGE = Stage(
    number=32,
    name="s32_schedule",
    title="Schedule",
    idea="Tiles with much to do start first; query heads that share K and V start side by side.",
    parent="s31_autotune",
    capability=Capability(
        backend="cuda",
        dtypes=("float16", "bfloat16"),
        headdims=(64, 128),
        min_arch=80,
    ),
    tiles={"Br": 128, "tile_bytes": 16384, "Bc": 64, "num_warps": 4, "buffers": 2},
)
