from stages.common.record import Capability, Stage

STAGE = Stage(
    number=20,
    name="s20_mma",
    title="Tensor cores by hand",
    idea="A block a Q tile, a warp 16 of its rows: cp.async, ldmatrix and mma.sync, with S, P and O in registers.",
    parent="s02_online_softmax",
    capability=Capability(
        backend="cuda",
        dtypes=("float16", "bfloat16"),
        headdims=(64, 128),
        min_arch=80,
    ),
    tiles={"Br": 64, "Bc": 64, "num_warps": 4},
    new_base=True,
)
