from stages.common.record import Capability, Stage

STAGE = Stage(
    number=31,
    name="s31_autotune",
    title="Tiles and autotuning",
    idea="Tile sizes as template arguments; a warp's m-tiles share each fragment of K and V. A tool picks.",
    parent="s30_static_stride",
    capability=Capability(
        backend="cuda",
        dtypes=("float16", "bfloat16"),
        headdims=(64, 128),
        min_arch=80,
    ),
    tiles={"Br": 128, "tile_bytes": 16384, "Bc": 64, "num_warps": 4, "buffers": 2},
    idea_fields=("Br", "tile_bytes"),
)
