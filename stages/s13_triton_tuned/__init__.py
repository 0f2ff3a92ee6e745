from stages.common.record import Capability, Stage

STAGE = Stage(
    number=13,
    name="s13_triton_tuned",
    title="Triton, tuned",
    idea="exp2 with the scale folded in, full tiles without masks, tiles by tensor descriptors, autotuning.",
    parent="s12_triton_v2",
    capability=Capability(
        backend="triton",
        dtypes=("float16", "bfloat16", "float32"),
        headdims=(16, 32, 64, 128, 256),
        min_arch=75,
        min_triton=(3, 4),  # tensor descriptors made on the host
    ),
    # What the interpreter runs, and where tuning starts; kernel.py has the other candidates.
    tiles={"Br": 64, "Bc": 64, "tile_bytes": 16384, "num_warps": 4, "num_stages": 3},
    idea_fields=("Br", "Bc", "num_warps", "num_stages"),
)
