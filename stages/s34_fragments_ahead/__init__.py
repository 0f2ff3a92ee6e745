from stages.common.record import Capability, Stage

STAGE = Stage(
    number=34,
    name="s34_fragments_ahead",
    title="Fragments ahead",
    idea="Load fragments a step ahead again: with two m-tiles a warp, registers allow it and the compiler needs it.",
    parent="s33_lazy_rescale",
    capability=Capability(
        backend="cuda",
        dtypes=("float16", "bfloat16"),
        headdims=(64, 128),
        min_arch=80,
    ),
    tiles={"Br": 128, "tile_bytes": 16384, "Bc": 64, "num_warps": 4, "buffers": 2},
)
