from stages.common.record import Capability, Stage

STAGE = Stage(
    number=11,
    name="s11_triton_v1",
    title="FlashAttention-1's order",
    idea="One fused kernel, K/V tiles outside, Q tiles inside: O, m and l go to global memory and back at each visit.",
    parent="s02_online_softmax",
    capability=Capability(
        backend="triton",
        dtypes=("float16", "bfloat16", "float32"),
        headdims=(16, 32, 64, 128, 256),
        min_arch=75,
    ),
    # A tile has 64 rows, or fewer where they would take more than 16 KiB: three tiles fit any GPU's shared memory.
    tiles={"Br": 64, "Bc": 64, "tile_bytes": 16384, "num_warps": 4, "num_stages": 1},
    new_base=True,
)
