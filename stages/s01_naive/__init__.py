from stages.common.record import Capability, Stage

STAGE = Stage(
    number=1,
    name="s01_naive",
    title="Naive attention",
    idea="Write the definition down: S = QKᵀ, P = softmax(S), O = PV, with the whole matrix S in memory.",
    parent=None,
    capability=Capability(backend="numpy", dtypes=("float16", "bfloat16", "float32", "float64")),
)
