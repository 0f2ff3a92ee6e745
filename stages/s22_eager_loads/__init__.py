from stages.common.record import Capability, Stage

STAGE = Stage(
    number=22,
    name="s22_eager_loads",
    title="Eager loads",
    idea="Ask for V before Q Kᵀ, and for the next K before P V: copies travel while the tensor cores work.",
    parent="s21_swizzle",
    capability=Capability(
        backend="cuda",
        dtypes=("float16", "bfloat16"),
        headdims=(64, 128),
        min_arch=80,
    ),
    tiles={"Br": 64, "Bc": 64, "num_warps": 4},
)
