from stages.common.record import Capability, Stage

STAGE = Stage(
    number=25,
    name="s25_causal_tiles",
    title="Causal tiles",
    idea="Three classes of K/V tiles, skipped, full and masked, walked from the last to the first: only masked ones pay for the mask.",
    parent="s24_fragment_pipeline",
    capability=Capability(
        backend="cuda",
        dtypes=("float16", "bfloat16"),
        headdims=(64, 128),
        min_arch=80,
    ),
    tiles={"Br": 64, "Bc": 64, "num_warps": 4, "buffers": 2},
)
