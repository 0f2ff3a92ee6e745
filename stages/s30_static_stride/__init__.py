from stages.common.record import Capability, Stage

STAGE = Stage(
    number=30,
    name="s30_static_stride",
    title="Static stride",
    idea="Row strides as template arguments: their multiples become constants in the copies' addresses.",
    parent="s29_address_math",
    capability=Capability(
        backend="cuda",
        dtypes=("float16", "bfloat16"),
        headdims=(64, 128),
        min_arch=80,
    ),
    tiles={"Br": 64, "Bc": 64, "num_warps": 4, "buffers": 2},
)
