"""The function that every K/V tile has to pass, watched while attention runs: by the grader and by check.py."""

from __future__ import annotations

import functools
import inspect

from numpy import absolute, size  # before a submission can put something else in their place


def watch(module, name: str) -> list[int]:
    """From here on the list gets the size of the largest array that the module's function `name` is called with.

    Its fifth argument, V, becomes |V| on the way: a result that does not come from there is found out.
    """
    function, sizes = getattr(module, name), []
    signature = inspect.signature(function)
    fifth = list(signature.parameters)[:5][-1]

    @functools.wraps(function)  # its signature stays what it was: it may be watched again
    def noted(*arguments, **named):
        bound = signature.bind(*arguments, **named)
        sizes.append(max(map(size, bound.arguments.values())))
        bound.arguments[fifth] = absolute(bound.arguments[fifth])
        return function(*bound.args, **bound.kwargs)

    setattr(module, name, noted)
    return sizes


def pairs(seqlen_q: int, seqlen_k: int, causal: bool, Br: int, Bc: int) -> int:
    """How often a Q tile of a head sees a K/V tile."""
    seen = 0
    for first_row in range(0, seqlen_q, Br):
        last = min(first_row + Br, seqlen_q) + seqlen_k - seqlen_q if causal else seqlen_k
        seen += max(0, -(-min(last, seqlen_k) // Bc))
    return seen
