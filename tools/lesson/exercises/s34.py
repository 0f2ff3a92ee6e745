"""Exercises of notebooks/s34_fragments_ahead."""

from __future__ import annotations

from tools.lesson.answers import exercise
from tools.lesson.listings import simplified

# ---- how early a fragment is loaded ---------------------------------------------------------------------------------


def early(code, operand):
    """For each fragment that is read as `operand` (1: A, 2: B), how many products after its load."""
    holds, fragments, products = {}, [], 0  # register -> [products when loaded, when first read]
    for opcode, names in code:
        if opcode == "LDSM":
            fragment = [products, None]
            fragments.append(fragment)
            holds |= dict.fromkeys(range(names[0], names[0] + 4), fragment)
        elif opcode == "HMMA":
            fragment = holds.get(names[operand])
            if fragment and fragment[1] is None:
                fragment[1] = products
            products += 1
        else:
            holds.pop(names[0], None)
    return [used - loaded for loaded, used in fragments if used is not None]


def _instructions(code, operand):
    """All that stands between, loads as well."""
    at, distances = {}, {}
    for i, (opcode, names) in enumerate(code):
        if opcode == "LDSM":
            at |= dict.fromkeys(range(names[0], names[0] + 4), i)
        elif opcode == "HMMA" and names[operand] in at:
            distances.setdefault(at[names[operand]], i - at[names[operand]] - 1)
    return [distances[i] for i in sorted(distances)]


def _last_use(code, operand):
    holds, fragments, products = {}, [], 0
    for opcode, names in code:
        if opcode == "LDSM":
            fragments.append([products, None])
            holds |= dict.fromkeys(range(names[0], names[0] + 4), fragments[-1])
        elif opcode == "HMMA":
            if names[operand] in holds:
                holds[names[operand]][1] = products
            products += 1
        else:
            holds.pop(names[0], None)
    return [used - loaded for loaded, used in fragments if used is not None]


def _first_load(code, operand):
    """A register that is loaded again still counts for the first fragment."""
    holds, fragments, products = {}, [], 0
    for opcode, names in code:
        if opcode == "LDSM":
            fragments.append([products, None])
            for register in range(names[0], names[0] + 4):
                holds.setdefault(register, fragments[-1])
        elif opcode == "HMMA":
            fragment = holds.get(names[operand])
            if fragment and fragment[1] is None:
                fragment[1] = products
            products += 1
        else:
            holds.pop(names[0], None)
    return [used - loaded for loaded, used in fragments if used is not None]


def _one_register(code, operand):
    """Only what begins where the fragment does: the second n-tile's half of it is not seen."""
    moved = [("LDSM", [names[0] + 2]) if opcode == "LDSM" else (opcode, names) for opcode, names in code]
    return early(moved, operand)


def _never_gone(code, operand):
    """What another instruction puts into a fragment's register is taken for the fragment."""
    return early([(opcode, names) for opcode, names in code if opcode != "other"], operand)


def _by_use(code, operand):
    """In the order of the products."""
    holds, distances, products = {}, [], 0
    for opcode, names in code:
        if opcode == "LDSM":
            fragment = [products]
            holds |= dict.fromkeys(range(names[0], names[0] + 4), fragment)
        elif opcode == "HMMA":
            fragment = holds.get(names[operand])
            if fragment:
                distances.append(products - fragment.pop())
            products += 1
        else:
            holds.pop(names[0], None)
    return distances


MADE_UP = [
    ("LDSM", [8, 100]),  # Q
    ("LDSM", [0, 101]),
    ("LDSM", [4, 101]),
    ("HMMA", [40, 20, 4]),  # loaded last, used first
    ("HMMA", [44, 8, 2, 44]),  # by its second half
    ("LDSM", [4, 101]),  # over what was there
    ("HMMA", [40, 8, 0, 40]),  # again
    ("LDSM", [12, 101]),
    ("other", [12, 60, 61]),  # P, where a fragment was that no product had read as A
    ("HMMA", [44, 12, 6, 44]),
    ("HMMA", [48, 8, 4, 48]),
]


@exercise(
    "s34.early",
    solution=early,
    wrong=(_instructions, _last_use, _first_load, _one_register, _by_use, _never_gone),
    hints=(
        "Keep a dictionary from a register to the fragment that is in it. An LDSM puts one fragment into four "
        "registers, another instruction something else into names[0]: what was there is gone.",
        "A fragment is [products when it was loaded, products when it was first read, or None]. Count products as you "
        "go; at an HMMA, look up names[operand].",
        "Return used - loaded of those that were read, in the order of the loads: keep them in a list as well.",
    ),
)
def check_early(answer) -> str:
    for what, code in (("a made-up loop", MADE_UP), *((n, simplified(n)) for n in ("s33_128x64", "s34_128x64"))):
        for operand, name in ((1, "A"), (2, "B")):
            got, want = list(answer(code, operand)), early(code, operand)
            if len(got) != len(want):
                return f"{what}: {len(got)} fragments are read as {name}, and there are {len(want)}"
            if got != want:
                i = next(i for i, (mine, right) in enumerate(zip(got, want, strict=True)) if mine != right)
                return f"{what}, operand {name}: fragment {i} is {got[i]} products ahead; it is {want[i]}"
    return ""


# ---- the part -------------------------------------------------------------------------------------------------------

# tests/test_pictures_s29_to_s31.py finds each of them out.
PART = {
    "ways": (8, 1),
    "barriers": (2, 1),
    "tiles": (28, 28, 8),
    "exponent": (3, 1),
    "products": (2, 4),
    "largest": (1, 256),
}
WHERE = {
    "ways": 'counted("s20", "s21", names=["ldmatrix", "ldmatrix_wavefronts"]): four passes each',
    "barriers": "code has them: count the __syncthreads in the loop",
    "tiles": "causal_tiles.draw(512, 512)",
    "exponent": "the scale, the maximum and exp2's own argument: s27",
    "products": "the picture of s31",
    "largest": "2 to the power of MAX_GROWTH",
}


@exercise(
    "s34.part",
    solution=PART,
    wrong=(
        PART | {"ways": (32, 4)},
        PART | {"tiles": (28, 36, 0)},
        PART | {"products": (1, 2)},
        PART | {"largest": (256, 256)},
        {name: ... for name in PART},
        {"ways": (8, 1)},
    ),
    hints=tuple(f"{name}: {where}." for name, where in WHERE.items()),
)
def check_part(answer) -> str:
    for name, want in PART.items():
        got = answer.get(name)
        if got is None or got is ...:
            return f"{name} has no answer yet"
        if tuple(got) != want:
            return f"{name} is not {got!r}; see {WHERE[name]}"
    return ""
