from stages.common.record import Capability, Stage

STAGE = Stage(
    number=2,
    name="s02_online_softmax",
    title="Tiles and the online softmax",
    idea="Walk K and V in tiles and keep a running maximum m, sum l and output O a row: nothing of size S×S is held.",
    parent="s01_naive",
    capability=Capability(backend="numpy", dtypes=("float16", "bfloat16", "float32", "float64")),
    tiles={"Br": 64, "Bc": 64},
    idea_fields=("Br", "Bc"),
)
