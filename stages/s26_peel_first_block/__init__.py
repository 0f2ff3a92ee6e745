from stages.common.record import Capability, Stage

STAGE = Stage(
    number=26,
    name="s26_peel_first_block",
    title="Peeled first block",
    idea="The loop body is a function templated on is_first: the first tile skips zeroing and rescaling.",
    parent="s25_causal_tiles",
    capability=Capability(
        backend="cuda",
        dtypes=("float16", "bfloat16"),
        headdims=(64, 128),
        min_arch=80,
    ),
    tiles={"Br": 64, "Bc": 64, "num_warps": 4, "buffers": 2},
)
