from stages.common.record import Capability, Stage

STAGE = Stage(
    number=12,
    name="s12_triton_v2",
    title="FlashAttention-2's order",
    idea="Swap the loops: a program owns one Q tile and walks K and V; O, m and l never leave its registers.",
    parent="s11_triton_v1",
    capability=Capability(
        backend="triton",
        dtypes=("float16", "bfloat16", "float32"),
        headdims=(16, 32, 64, 128, 256),
        min_arch=75,
    ),
    tiles={"Br": 64, "Bc": 64, "tile_bytes": 16384, "num_warps": 4, "num_stages": 1},
)
