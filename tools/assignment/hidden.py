"""Hidden cases: what a definition leaves open (lengths from a range, a choice of values, the seed) is drawn from a
secret.

The same secret draws the same cases for every submission, so a regrade gives the same score; without it nobody can say
what is drawn. The secret is made when the autograder is built and stays with the instructor.
"""

from __future__ import annotations

import hashlib
import random
import secrets

from reference import Case
from tools.assignment.definition import RANGE, Assignment, DefinitionError, Test
from tools.check import properties

DRAWS = 200  # tries at a case that has the test's property


def new_secret() -> str:
    return secrets.token_hex(16)


def generator(secret: str, *about) -> random.Random:
    """A generator of its own for what `about` names."""
    text = "\0".join(map(str, (secret, *about)))
    return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))


def draw(value, rng: random.Random):
    """ "3..70" one whole number of them, a list one of its values, anything else itself."""
    if isinstance(value, list):
        return rng.choice(value)
    if isinstance(value, str) and (found := RANGE.fullmatch(value)):
        return rng.randint(int(found[1]), int(found[2]))
    return value


def cases(test: Test, secret: str) -> list[Case]:
    """The test's cases, drawn so that each has the property that the test is about."""
    has = properties(test.stage)
    drawn = []
    for i, pattern in enumerate(test.cases):
        rng = generator(secret, test.number, i)
        for _ in range(DRAWS):
            case = Case(**{key: draw(value, rng) for key, value in pattern.items()}, seed=rng.getrandbits(31))
            if not test.about or has[test.about](case):
                break
        else:
            raise DefinitionError(f"test {test.number}, case {i + 1}: {dict(pattern)} is never about {test.about!r}")
        drawn.append(case)
    return drawn


def require_cases(assignment: Assignment) -> None:
    """Raises DefinitionError for a pattern of cases that never has the property that its test is about."""
    for test in assignment.tests:
        cases(test, "any")
