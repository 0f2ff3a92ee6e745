"""Naming a mistake: a wrong result is compared with what known mistakes would have given.

Each mistake is attention in float64 with one thing done wrong. A result that equals one of them, and not the right
answer, was most likely made by it; the student is told the mistake, not the numbers.
"""

# ruff: noqa: E741  (the papers' symbols)
from __future__ import annotations

import math

import torch

from reference import Case, oracle

# name: what the student reads. The order decides where two give the same result. "…, visited": the same mistake in a
# kernel that leaves out the tiles that no row of a Q tile sees.
MISTAKES = {
    "top-left": "the causal mask is aligned to the top left corner; it ends in the bottom right: "
    "j <= i + seqlen_k - seqlen_q",
    "strict": "the causal mask is off by one: query i sees the key j = i + seqlen_k - seqlen_q too",
    "unmasked": "the causal mask is not applied",
    "top-left, visited": "the causal mask is aligned to the top left corner; it ends in the bottom right: "
    "j <= i + seqlen_k - seqlen_q",
    "unmasked, visited": "the causal mask is not applied within a tile",
    "last masked": "causal: only the last K/V tile is masked, but the diagonal can cross more than one",
    "tile mask": "the causal mask counts keys from the start of the tile, not of the sequence",
    "tile mask, visited": "the causal mask counts keys from the start of the tile, not of the sequence",
    "early stop": "causal: the walk over K and V stops where the Q tile's first row does; its last row sees more",
    "scale ignored": "the caller's softmax_scale is not used",
    "unscaled": "the scores are not multiplied by softmax_scale",
    "base 2": "exp2 is taken of scores that were not multiplied by log2(e)",
    "tail counted": "keys past the end of a ragged length count as scores of 0; they need a score of -inf",
    "tail dropped": "the ragged last K/V tile is left out",
    "O not rescaled": "O is not rescaled when the running maximum grows",
    "l not rescaled": "l is not rescaled when the running maximum grows",
    "nothing rescaled": "neither O nor l is rescaled when the running maximum grows",
    "upside down": "the factor is upside down: what was summed has to shrink by exp(m - m_new)",
    "max zero": "the running maximum starts at 0: where all scores are far below, everything underflows; start at -inf",
    "last tile": "only the last K/V tile counts: what came before it is overwritten",
    "m lost": "the running maximum is not kept: for every tile it is -inf again, and what came before counts nothing",
    "tile max": "the running maximum is that of the last tile alone; it is the larger of that and the old one",
    "alpha base 2": "P and the factor that rescales O and l are taken to different bases: one has exp, one exp2",
    "old l lost": "O is kept divided by l, but the old division is not undone: the old O counts alpha l / l_new",
    "m l swapped": "m and l are swapped",
    "divided twice": "O is divided by l at every tile and once more at the end",
    "first tile": "every K/V tile is the first: its number is missing from the keys",
    "first V tile": "every V tile is the first: its number is missing from the address",
    "K behind": "from the second tile on, V meets the K of the tile before",
    "not divided": "O is not divided by l at the end",
    "heads": "query heads take turns over the key/value heads; head h reads h // (nheads // nheads_k)",
    "first batch": "every batch reads the keys and values of the first",
    "first K": "every batch reads the keys of the first",
    "first V": "every batch reads the values of the first",
    "lse max": "lse lacks the maximum: it is m + log l",
    "lse log2": "lse is in base 2; it is a natural logarithm",
    "lse m": "lse has the maximum in base 2: a maximum of scores times log2(e) has to be divided by that again",
    "lse half": "the logarithm of l is in base 2; it is a natural one",
    "lse sum": "lse is l itself, not its logarithm with the maximum",
    "lse old": "lse has only the maximum: it is m + log l",
}


NO_MAXIMUM = (
    "no maximum is subtracted before exp: exp of large scores overflows, and of scores far below 0 nothing is left"
)


def diagnose(case: Case, q, k, v, out, lse, tile: int | None) -> tuple[str, ...]:
    """The mistakes, in words, any of which explains the result, the likeliest first. q, k, v: the inputs; out, lse: the
    student's; tile: rows of a K/V tile; None: the stage has none, and nothing that runs."""
    known = []
    for name, text in MISTAKES.items():
        if tile is None and name in WALKS:
            continue
        made = mistaken(name, case, q, k, v, tile or case.seqlen_k)
        if made is not None and _close(out, made[0], case) and _close(lse, made[1], case):
            known.append(text)
    if _without_maximum(case, q, k, v, out, lse):
        known.append(NO_MAXIMUM)
    known = list(dict.fromkeys(known))
    unseen = rows_without_keys(case)
    if unseen is None:
        return tuple(known)
    theirs = [text for text in (_without_keys(out, lse, unseen),) if text]
    right, seen = oracle(q, k, v, causal=case.causal, softmax_scale=case.softmax_scale), ~unseen
    others_right = _close(out[:, seen], right[0][:, seen], case) and _close(lse[..., seen], right[1][..., seen], case)
    return tuple(theirs + known if others_right else known + theirs)


def _without_maximum(case: Case, q, k, v, out, lse) -> bool:
    """Whether the result is lost in just the rows whose scores exp cannot take as they are."""
    causal, scale = case.causal, case.softmax_scale if case.softmax_scale is not None else case.headdim**-0.5
    right, right_lse = oracle(q, k, v, causal=causal, softmax_scale=scale)
    most, least = (709, -745) if case.dtype == "float64" else (88, -104)
    visible = torch.ones(case.seqlen_q, case.seqlen_k, dtype=torch.bool)
    if causal:
        visible = visible.tril(case.seqlen_k - case.seqlen_q)
    m = _scores(q.double(), k.double(), scale, visible).amax(dim=3)  # [batch, nheads, seqlen_q]
    beyond = (m > most + 1) | ((m < least - 1) & (m > -torch.inf))
    near = ~beyond & ((m > most - 10) | (m < least + 20))
    o = out.transpose(1, 2)
    lost = ~o.isfinite().all(dim=3) | (o == 0).all(dim=3)
    plain = ~beyond & ~near
    rest_right = _close(o[plain], right.transpose(1, 2)[plain], case) and _close(lse[plain], right_lse[plain], case)
    return bool(beyond.any() and lost[beyond].all() and rest_right)


def _without_keys(out, lse, unseen) -> str:
    """What is wrong in the rows that see no key, or ""."""
    rows = out.isnan().any(dim=3).any(dim=2).any(dim=0)
    if rows.any() and torch.equal(rows, rows & unseen):
        return "rows that see no key give NaN: their maximum is -inf, and -inf - -inf is NaN"
    if (lse[..., unseen] != -torch.inf).any():
        return "rows that see no key do not have an lse of -inf"
    if (out[:, unseen] != 0).any():
        return "rows that see no key do not have an output of 0"
    return ""


def rows_without_keys(case: Case):
    """[seqlen_q] True where a row sees no key; None where all do."""
    if not case.causal or case.seqlen_q <= case.seqlen_k:
        return None
    return torch.arange(case.seqlen_q) + case.seqlen_k - case.seqlen_q < 0


def _close(got, made, case: Case) -> bool:
    got, made = got.double(), made.double()
    if not torch.equal(got.isfinite(), made.isfinite()):
        return False
    finite = made.isfinite()
    size = made[finite].abs().max().item() if finite.any() else 0
    tolerance = {"float16": 4e-3, "bfloat16": 3e-2}.get(case.dtype, 1e-4) * max(size, 1e-3)
    return bool(((got - made)[finite].abs() <= tolerance).all())


def mistaken(name: str, case: Case, q, k, v, tile: int):
    """(out, lse) as the mistake `name` gives them, or None where it changes nothing or cannot be made."""
    causal, scale = case.causal, case.softmax_scale if case.softmax_scale is not None else case.headdim**-0.5
    q, k, v = (t.double() for t in (q, k, v))
    shift = case.seqlen_k - case.seqlen_q
    i, j = torch.arange(case.seqlen_q)[:, None], torch.arange(case.seqlen_k)[None, :]
    visible = j <= i + shift if causal else j >= 0
    last_row = i // tile * tile + tile - 1  # of the row's Q tile
    visited = j // tile * tile <= last_row + shift if causal else visible  # by some row of that tile
    if name.partition(",")[0] in ("top-left", "strict", "unmasked", "tile mask", "early stop", "last masked"):
        name, _, only_visited = name.partition(", ")
        several = name in ("tile mask", "early stop", "last masked")
        if not causal or (name == "top-left" and shift == 0) or (several and case.seqlen_k <= tile):
            return None
        walked = (last_row + shift).clamp(max=case.seqlen_k - 1) // tile  # number of the last tile that is visited
        wrong = {
            "top-left": j <= i,
            "strict": j < i + shift,
            "unmasked": j >= 0,
            "tile mask": j % tile <= i + shift,
            "early stop": visible & (j // tile * tile <= i // tile * tile + shift),
            "last masked": visited & (visible | (j // tile < walked)),
        }[name]
        return _softmax(q, k, v, scale, wrong & visited if only_visited else wrong)
    if name in ("scale ignored", "unscaled"):
        other = case.headdim**-0.5 if name == "scale ignored" else 1.0
        return None if other == scale else oracle(q, k, v, causal=causal, softmax_scale=other)
    if name == "tail counted":
        extra = -case.seqlen_k % tile
        if not extra or causal:
            return None
        k, v = (torch.nn.functional.pad(t, (0, 0, 0, 0, 0, extra)) for t in (k, v))
        return _softmax(q, k, v, scale, torch.ones(case.seqlen_q, case.seqlen_k + extra, dtype=torch.bool))
    if name == "tail dropped":
        whole = case.seqlen_k // tile * tile
        if not whole or whole == case.seqlen_k:
            return None
        return _softmax(q, k[:, :whole], v[:, :whole], scale, visible[:, :whole])
    if name in WALKS:
        if case.seqlen_k <= tile and name not in ("max zero", "m lost", "divided twice", "m l swapped"):
            return None
        return _walk(name, q, k, v, scale, visible, visited, tile)
    if name in ("first tile", "first V tile", "K behind"):
        if case.seqlen_k <= tile:
            return None
        j = j[0]
        if name == "first V tile":
            return _softmax(q, k, v[:, j % tile], scale, visible)
        if name == "K behind":
            return _softmax(q, k[:, torch.where(j < tile, j, j - tile)], v, scale, visible)
        again = torch.arange(-(-case.seqlen_k // tile) * tile)
        first = again % tile
        wrong = (first <= i + shift) & (again // tile * tile <= last_row + shift) if causal else again[None] >= 0
        return _softmax(q, k[:, first], v[:, first], scale, wrong.expand(case.seqlen_q, -1))
    if name == "heads":
        group = case.nheads // case.nheads_k
        if group == 1 or case.nheads_k == 1:
            return None
        order = torch.arange(case.nheads) % case.nheads_k
        return oracle(q, k[:, :, order], v[:, :, order], causal=causal, softmax_scale=scale)
    if name in ("first batch", "first K", "first V"):
        if case.batch == 1:
            return None
        k = k if name == "first V" else k[:1].expand_as(k)
        v = v if name == "first K" else v[:1].expand_as(v)
        return oracle(q, k, v, causal=causal, softmax_scale=scale)
    m = _scores(q, k, scale, visible).amax(dim=3)
    if name == "base 2":
        out, lse = oracle(q, k, v, causal=causal, softmax_scale=scale * math.log(2))
        return out, torch.where(m == -torch.inf, m, lse + m * (1 - math.log(2)))
    out, lse = oracle(q, k, v, causal=causal, softmax_scale=scale)
    if name == "not divided":
        return out * torch.where(lse == -torch.inf, 0, (lse - m)).exp().transpose(1, 2)[..., None], lse
    log_l = torch.where(lse == -torch.inf, 0, lse - m)
    wrong = {
        "lse max": log_l, "lse log2": lse / math.log(2), "lse half": m + log_l / math.log(2), "lse sum": log_l.exp(),
        "lse old": m, "lse m": m / math.log(2) + log_l,
    }  # fmt: skip
    return out, wrong[name]


def _scores(q, k, scale, visible):
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    S = scale * torch.einsum("bihd,bjhd->bhij", q, k)
    return S.masked_fill(~visible, -torch.inf)


def _softmax(q, k, v, scale, visible):
    S = _scores(q, k, scale, visible)
    lse = S.logsumexp(dim=3)
    P = (S - torch.where(lse == -torch.inf, 0, lse)[..., None]).exp()
    return torch.einsum("bhij,bjhd->bihd", P, v.repeat_interleave(q.shape[2] // v.shape[2], dim=2)), lse


def _exp(x):
    """As float32 has it: below about -104 there is nothing left."""
    return torch.where(x < -104, 0, x.exp())


WALKS = (
    "O not rescaled", "l not rescaled", "nothing rescaled", "upside down", "max zero", "last tile", "m lost",
    "tile max", "alpha base 2", "old l lost", "divided twice", "m l swapped",
)  # fmt: skip


def _walk(name, q, k, v, scale, visible, visited, tile):
    """The online softmax, with something left out or done wrong."""
    S = _scores(q, k, scale, visible)
    v = v.repeat_interleave(q.shape[2] // v.shape[2], dim=2)
    O = torch.zeros(q.shape, dtype=torch.float64).transpose(1, 2)
    m = torch.full(S.shape[:3], 0 if name == "max zero" else -torch.inf, dtype=torch.float64)
    l = torch.zeros_like(m)
    for start in range(0, S.shape[3], tile):
        here = visited.expand(S.shape[2], -1)[:, start]  # the rows whose Q tile is worked on
        part = S[:, :, here, start : start + tile]
        m_old, l_old, O_old = m[..., here], l[..., here], O[:, :, here]
        m_new = part.amax(dim=3)
        if name not in ("tile max", "m lost"):
            m_new = torch.maximum(m_old, m_new)
        m_safe = torch.where(m_new == -torch.inf, 0, m_new)
        P = _exp(part - m_safe[..., None])
        alpha = _exp(m_old - m_safe)
        if name == "upside down":
            alpha = torch.where(m_old == -torch.inf, 0, m_safe - m_old).exp()
        if name == "alpha base 2":
            alpha = _exp((m_old - m_safe) * math.log(2))
        keep_O = 0 if name == "last tile" else 1 if name in ("O not rescaled", "nothing rescaled") else alpha[..., None]
        keep_l = 0 if name == "last tile" else 1 if name in ("l not rescaled", "nothing rescaled") else alpha
        l_new = keep_l * l_old + P.sum(dim=3)
        l_safe = torch.where(l_new == 0, 1, l_new)[..., None]
        PV = torch.einsum("bhij,bjhd->bhid", P, v[:, start : start + tile])
        O_new = keep_O * O_old + PV
        if name in ("old l lost", "divided twice"):
            O_new = O_new / l_safe
        O[:, :, here], l[..., here] = O_new, l_new
        if name != "m lost":
            m[..., here] = m_new
        if name == "m l swapped":
            m[..., here], l[..., here] = l[..., here], m[..., here]
    l = torch.where(l == 0, 1, l)
    if name != "old l lost":
        O = O / l[..., None]
    return O.transpose(1, 2), m + l.log()
