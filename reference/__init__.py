"""The one reference that every stage is checked against: oracle, tolerances, inputs, guards, cases.

>>> from reference import Case, check
>>> check(get("s12"), Case(headdim=64, seqlen_q=113, seqlen_k=203, causal=True))  # doctest: +SKIP
"""

from reference.cases import Case, full_grid, quick_grid
from reference.check import Verdict, check, judge
from reference.oracle import oracle, plain

__all__ = ["Case", "Verdict", "check", "full_grid", "judge", "oracle", "plain", "quick_grid"]
