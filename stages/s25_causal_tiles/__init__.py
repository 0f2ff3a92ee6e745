from stages.common.record import Capability, Stage

STAGE = Stage(
    number=25,
    name="s25_causal_tiles",
    title="Causal tiles",
    idea="K/V tiles are skipped, full or masked; only masked ones pay for a mask, and they come first.",
    parent="s24_fragment_pipeline",
    capability=Capability(
        backend="cuda",
        dtypes=("float16", "bfloat16"),
        headdims=(64, 128),
        min_arch=80,
    ),
    tiles={"Br": 64, "Bc": 64, "num_warps": 4, "buffers": 2},
)
