"""Captured activations: Q, K, V that a pretrained transformer computed on a real text, in one .npz file.

    layer<N>.q                float16 [batch, seqlen, nheads, headdim]
    layer<N>.k, layer<N>.v    float16 [batch, seqlen, nheads_k, headdim]
    metadata                  JSON: {"source": {model, model_licence, text, date ...},
                                     "layers": [{layer, causal, softmax_scale, batch, seqlen, ...}, ...]}

`python -m tools.capture` writes such files. reference/activations/README.md is about the committed one.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DEFAULT = Path(__file__).parent / "activations" / "all-minilm-l6-v2.npz"

SHAPE = ("batch", "seqlen", "nheads", "nheads_k", "headdim")


@dataclass(frozen=True)
class Activation:
    """One attention layer's operands, as its attention function received them: after rotary embedding, if the
    model has one, and before grouped key/value heads are repeated.

    q [batch, seqlen, nheads, headdim]; k, v [batch, seqlen, nheads_k, headdim], NumPy float16.
    causal, softmax_scale: as the model's layer passes them to its attention function.
    source: where it comes from (model, model_licence, text, date ...), the same for all layers of a file.
    """

    layer: int
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    causal: bool
    softmax_scale: float
    source: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.source.get('model', 'unknown model')} layer {self.layer}"

    @property
    def shape(self) -> dict[str, int]:
        """batch, seqlen, nheads, nheads_k, headdim."""
        batch, seqlen, nheads, headdim = self.q.shape
        return dict(zip(SHAPE, (batch, seqlen, nheads, self.k.shape[2], headdim), strict=True))


def load_activations(path: str | Path = DEFAULT) -> list[Activation]:
    """Read a file of captured activations, in the order in which its layers were captured.

    Raises FileNotFoundError when there is no such file, and ValueError naming the file when its contents are
    not what its metadata says: damaged, not finite, not float16, of another shape.
    """
    path = Path(path)
    again = "restore it, or capture it again with `python -m tools.capture`"
    try:
        if path.exists() and not zipfile.is_zipfile(path):
            raise ValueError("it is no zip archive, which an .npz file is")
        with np.load(path, allow_pickle=False) as file:
            metadata = json.loads(str(file["metadata"]))
            activations = [_layer(file, entry, metadata["source"]) for entry in metadata["layers"]]
    except FileNotFoundError:
        raise FileNotFoundError(f"no captured activations at {path}; {again}") from None
    except (OSError, EOFError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); {again}") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(f"{path} is damaged ({error}); {again}") from error
    if not activations:
        raise ValueError(f"{path} is damaged (it holds no layer); {again}")
    return activations


def save_activations(path: str | Path, activations: list[Activation]) -> None:
    """Write a file of captured activations, under a temporary name first.

    Raises ValueError for what `load_activations` would refuse.
    """
    path = Path(path)
    if not activations:
        raise ValueError("activations is empty; accepted: at least one layer")
    if len({a.layer for a in activations}) < len(activations):
        raise ValueError(f"activations has layers {[a.layer for a in activations]}; accepted: each layer once")
    arrays, layers = {}, []
    for a in activations:
        _check(a)
        layers.append({"layer": a.layer, "causal": a.causal, "softmax_scale": a.softmax_scale, **a.shape})
        arrays |= {f"layer{a.layer}.{name}": getattr(a, name) for name in "qkv"}
    metadata = json.dumps({"source": activations[0].source, "layers": layers}, indent=1, ensure_ascii=False)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, metadata=np.array(metadata), **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _layer(file, entry: dict, source: dict) -> Activation:
    layer = entry["layer"]
    q, k, v = (file[f"layer{layer}.{name}"] for name in "qkv")
    activation = Activation(layer, q, k, v, bool(entry["causal"]), float(entry["softmax_scale"]), source)
    _check(activation)
    expected = {name: entry[name] for name in SHAPE}
    if activation.shape != expected:
        raise ValueError(f"layer {layer} has {activation.shape}, its metadata says {expected}")
    return activation


def _check(a: Activation) -> None:
    for name in "qkv":
        array = getattr(a, name)
        if array.ndim != 4 or array.dtype != np.float16:
            raise ValueError(f"layer{a.layer}.{name} is {array.dtype} {array.shape}; accepted: float16, 4 dimensions")
        if not np.isfinite(array).all():
            raise ValueError(f"layer{a.layer}.{name} has values that are not finite")
    fits = a.q.shape[:2] == a.k.shape[:2] and a.q.shape[3] == a.k.shape[3] and a.k.shape == a.v.shape
    if not fits or 0 in (*a.q.shape, *a.k.shape) or a.q.shape[2] % a.k.shape[2]:
        raise ValueError(
            f"layer {a.layer} has q {a.q.shape}, k {a.k.shape}, v {a.v.shape}; accepted: q [batch, seqlen, "
            "nheads, headdim]; k, v [batch, seqlen, nheads_k, headdim]; nheads a multiple of nheads_k"
        )
    if not (np.isfinite(a.softmax_scale) and a.softmax_scale > 0):
        raise ValueError(f"layer {a.layer} has softmax_scale {a.softmax_scale}; accepted: a finite number above 0")
