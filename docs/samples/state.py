"""The online softmax's state as a thing to compute with: the merge rule, and what it is made of.

Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018), section 3.1, with O added to it.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class State:
    """What is kept of the keys seen so far, for one query.

    m: their largest score; l: Σ exp(S - m); O: Σ exp(S - m) V.
    """

    m: float
    l: float
    O: np.ndarray  # [d], not yet divided by l

    @classmethod
    def of(cls, s, V):
        """Of the keys whose scores are s [n] and whose values are V [n, d]."""
        m = s.max(initial=-np.inf)
        P = np.exp(s - m) if m > -np.inf else np.zeros_like(s)
        return cls(m, P.sum(), P @ V)

    def __add__(self, other):
        """The state of both sets of keys together."""
        m = max(self.m, other.m)
        if m == -np.inf:
            return self  # neither has seen a key: -inf - -inf would be NaN
        a, b = np.exp(self.m - m), np.exp(other.m - m)
        return State(m, a * self.l + b * other.l, a * self.O + b * other.O)

    @property
    def output(self):
        """Attention's output for this query, and its log-sum-exp."""
        return (self.O / self.l, self.m + np.log(self.l)) if self.l else (np.zeros_like(self.O), -np.inf)
