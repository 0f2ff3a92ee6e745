"""Exercises: a question in the notebook, a check of what the reader wrote, hints, a solution.

tools/lesson/exercises/sNN.py has a part's exercises; each is an `Exercise`, made with `@exercise("s21.swizzle", ...)`
on the function that checks an answer. A test sees every solution pass, and every wrong answer and the untouched stub
fail.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tools.lesson.pieces import LessonError
from tools.lesson.shown import Shown


@dataclass(frozen=True)
class Exercise:
    """name: "s21.swizzle". check(answer) -> what is wrong with it, in words, "" if it is right; it may raise: that is
    wrong as well. solution: an answer that is right. wrong: plausible answers that are not, each with what is wrong.
    hints: from a nudge to nearly all."""

    name: str
    check: Callable[[object], str]
    solution: object
    wrong: Sequence[object]
    hints: Sequence[str]


_EXERCISES: dict[str, Exercise] = {}


def exercise(name: str, *, solution, wrong: Sequence, hints: Sequence[str]) -> Callable:
    """Make an exercise of the function below."""

    def register(check: Callable[[object], str]) -> Callable[[object], str]:
        _EXERCISES[name] = Exercise(name, check, solution, tuple(wrong), tuple(hints))
        return check

    return register


def find(name: str) -> Exercise:
    """Raises LessonError when there is none of that name."""
    module = name.partition(".")[0]
    try:
        importlib.import_module(f"tools.lesson.exercises.{module}")
        return _EXERCISES[name]
    except (ModuleNotFoundError, KeyError):
        known = ", ".join(sorted(_EXERCISES)) or "none of that stage"
        raise LessonError(f"exercise is {name!r}; there are {known}") from None


def verdict(name: str, given) -> str:
    """ "" if it is right, else what is wrong with it."""
    one = find(name)
    if given is None or given is ...:
        return "no answer yet"
    try:
        if callable(given):
            _refuse_stub(given)
        return one.check(given)
    except _NoAnswer:
        return "no answer yet"
    except Exception as error:  # a reader's code may raise anything
        return f"{type(error).__name__}: {error}"


class _NoAnswer(Exception):
    pass


def untouched(given) -> bool:
    """Whether it is no answer: None, `...`, or a function that holds nothing else."""
    try:
        if callable(given):
            _refuse_stub(given)
    except _NoAnswer:
        return True
    return given is None or given is ...


def no_answer_if(unfinished: bool) -> None:
    """For checks of texts and lists: what still holds its `...` is no answer, rather than a wrong one."""
    if unfinished:
        raise _NoAnswer


def _refuse_stub(function: Callable) -> None:
    """A function that holds nothing but `...` or pass, whatever its docstring says, was not written yet."""
    try:
        tree = ast.parse(_source(function))
    except (OSError, TypeError, SyntaxError):  # typed in where no source is kept, or a lambda within a line
        return
    for node in tree.body[:1]:
        if isinstance(node, ast.FunctionDef) and all(map(_is_nothing, node.body)):
            raise _NoAnswer


def _source(function: Callable) -> str:
    """Of a function, or of what @triton.jit has made of one."""
    return textwrap.dedent(inspect.getsource(getattr(function, "fn", function)))


def _is_nothing(statement: ast.stmt) -> bool:
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass) or constant  # `...` and a docstring are constants


def answer(name: str, given) -> Shown:
    """Check what the reader gave."""
    problem = verdict(name, given)
    count = len(find(name).hints)
    if not problem:
        return Shown(f"{name}: right.")
    offers = f'hint("{name}", 1)' + (f" to {count}" if count > 1 else "")
    return Shown(f'{name}: {problem}. ({offers}, and solution("{name}"), help.)')


def hint(name: str, number: int = 1) -> Shown:
    hints = find(name).hints
    if not 1 <= number <= len(hints):
        raise LessonError(f"hint is {number}; accepted: 1 to {len(hints)}")
    return Shown(f"Hint {number} of {len(hints)}: {hints[number - 1]}")


def solution(name: str) -> Shown:
    """The source of the solution, or its value."""
    right = find(name).solution
    if callable(right):
        return Shown(f"```python\n{_source(right).rstrip()}\n```")
    if isinstance(right, str) and "\n" in right:
        return Shown(f"```cpp\n{right.strip()}\n```")
    return Shown(f"`{right!r}`")
