"""Input families. Normal draws alone hide numerics bugs: logits stay near 0, the running maximum hardly moves.

| family     | what it is                                               | what it catches                              |
| ---------- | -------------------------------------------------------- | -------------------------------------------- |
| normal     | standard normal draws                                    | indexing                                     |
| shifted    | every logit large and positive (about 130 at head dim 64)| a softmax without its maximum: exp overflows |
| negative   | every logit large and negative                           | a running maximum that starts at 0           |
| spikes     | a few huge keys and values, in some heads only           | a missing rescale; errors averaged away      |
| one_hot    | each query picks one key almost exactly                  | a key off by one; a lost tail                |
| constant_v | V is one constant a head                                 | a wrong sum l                                |
| ramp       | logits that grow steadily from key to key, either way    | a rescale put off for too long               |
| activations| Q, K, V of a real model on a real text                   | what the others forgot                       |
"""

from __future__ import annotations

import functools
import math

import torch

RANDOM_FAMILIES = ("normal", "shifted", "negative", "spikes", "one_hot", "constant_v")
FAMILIES = (*RANDOM_FAMILIES, "ramp", "activations")


def make_inputs(family, *, batch, seqlen_q, seqlen_k, nheads, nheads_k, headdim, seed=0):
    """Draw one case's inputs on the CPU, the same on every machine for the same arguments.

    -> q [batch, seqlen_q, nheads, headdim]; k, v [batch, seqlen_k, nheads_k, headdim], float32.
    Raises ValueError for an unknown family, or for activations of a shape that was not captured.
    """
    if family == "activations":
        return _activations(batch, seqlen_q, seqlen_k, nheads, nheads_k, headdim, seed)
    if family not in FAMILIES:
        raise ValueError(f"family is {family!r}; accepted: {', '.join(FAMILIES)}")
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    q = normal(batch, seqlen_q, nheads, headdim)
    k = normal(batch, seqlen_k, nheads_k, headdim)
    v = normal(batch, seqlen_k, nheads_k, headdim)
    if family in ("shifted", "negative"):
        # A constant c added to q and ±c to k moves every logit by ±c²·sqrt(headdim) = ±130, whatever the head dim.
        c = (130 / headdim**0.5) ** 0.5
        q, k = q + c, k + (c if family == "shifted" else -c)
    elif family == "spikes":
        # Large keys late in the sequence: the running maximum jumps there, and everything before has to shrink.
        for head in range(0, nheads_k, 2):
            for position in (seqlen_k // 2, seqlen_k - 1):
                k[:, position, head] *= 6
                v[:, position, head] *= 30
    elif family == "one_hot":
        # A query's own key has the logit 4·sqrt(headdim), far above the rest. The last query picks the last key, so
        # that a lost tail shows; each before it picks 7 keys earlier, going round.
        k = torch.nn.functional.normalize(k, dim=3) * headdim**0.5
        picked = (seqlen_k - 1 - 7 * torch.arange(seqlen_q - 1, -1, -1)) % seqlen_k
        q = 4 * k.repeat_interleave(nheads // nheads_k, dim=2)[:, picked]
    elif family == "constant_v":
        v = torch.arange(1, nheads_k + 1).view(1, 1, nheads_k, 1).expand_as(v).clone().float() / 3
    elif family == "ramp":
        # Over 64 keys the exponentials grow by a factor of 2⁶: in every tile a little, in a few tiles by more than
        # fp16 holds. Towards the last key in even heads and towards the first in odd ones, since some walk backwards.
        growth = 6 / 64 * math.log(2) * torch.arange(seqlen_k)  # of a logit, at the default scale
        c = (growth[-1].item() / headdim**0.5) ** 0.5 or 1.0
        ramp = (growth / (c * headdim**0.5)).view(1, seqlen_k, 1, 1)
        k = k / 8 + torch.where(torch.arange(nheads_k).view(-1, 1) % 2 == 0, ramp, ramp.flip(1))
        q = q / 2 + c
    return q, k, v


@functools.cache
def _captured():
    from reference.activations_io import load_activations

    return load_activations()


def captured_shape() -> tuple[int, int, int]:
    """(seqlen, nheads, headdim) of the committed activations: the longest and widest case that they can serve."""
    _, seqlen, nheads, headdim = _captured()[0].q.shape
    return seqlen, nheads, headdim


def _activations(batch, seqlen_q, seqlen_k, nheads, nheads_k, headdim, seed):
    """A window of what was captured: last seqlen_q queries, first seqlen_k keys, first heads; a layer a batch."""
    seqlen, heads, captured_headdim = captured_shape()
    if max(seqlen_q, seqlen_k) > seqlen or nheads > heads or headdim != captured_headdim:
        raise ValueError(
            f"activations of seqlen {max(seqlen_q, seqlen_k)}, nheads {nheads}, headdim {headdim}; "
            f"accepted: at most {seqlen}, at most {heads}, exactly {captured_headdim}"
        )
    layers = _captured()
    chosen = [layers[(seed + b) % len(layers)] for b in range(batch)]

    def window(name, rows, heads):
        return torch.cat([torch.from_numpy(getattr(layer, name)[:, rows, :heads]).float() for layer in chosen])

    q = window("q", slice(seqlen - seqlen_q, None), nheads)
    return q, window("k", slice(seqlen_k), nheads_k), window("v", slice(seqlen_k), nheads_k)
