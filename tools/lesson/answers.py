"""Exercises: a question in the notebook, a check of what the reader wrote, hints, a solution.

tools/lesson/exercises/sNN.py has a part's exercises; each is an `Exercise`, made with `@exercise("s21.swizzle", ...)`
on the function that checks an answer. A test sees every solution pass, and every wrong answer and the untouched stub
fail.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import linecache
import textwrap
import traceback
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
    calls: list[tuple] = []  # the last one: arguments, result
    try:
        if callable(given):
            _refuse_stub(given)
        return one.check(_watched(one, given, calls) if inspect.isfunction(given) else given)
    except _NoAnswer:
        return "no answer yet"
    except _Nothing as nothing:
        return str(nothing)
    except Exception as error:  # a reader's code may raise anything
        return _said(one, given, error, calls)


class _Nothing(Exception):
    """The reader's function has returned None where the solution does not."""


def _watched(one: Exercise, function: Callable, calls: list[tuple]) -> Callable:
    """The function, with its last arguments and result kept in `calls`."""

    @functools.wraps(function)
    def called(*arguments):
        calls.clear()
        result = function(*arguments)
        if result is None and (wanted := _wanted(one, arguments)) != "NoneType":
            raise _Nothing(f"your function returned None; wanted: {wanted}. Is there a `return`?")
        calls.append((arguments, result))
        return result

    return called


def _wanted(one: Exercise, arguments: tuple) -> str:
    """What kind of thing the solution returns, without the thing itself."""
    try:
        return _kind(one.solution(*arguments))
    except Exception:  # the check has called it with what the solution does not take
        return "a value"


def _kind(value) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)} ({', '.join(dict.fromkeys(map(_kind, value)))})"
    shape = getattr(value, "shape", ())
    return f"an array of shape {shape}" if shape else type(value).__name__


def _said(one: Exercise, given, error: Exception, calls: list[tuple]) -> str:
    """What was raised and where: in the reader's own line, or else by the check on what the function returned."""
    deepest = error
    while deepest.__cause__ is not None:  # Triton's interpreter wraps what a kernel raises
        deepest = deepest.__cause__
    for raised in (deepest, error):
        place = _own_line(given, raised)
        if place:
            return f"{type(raised).__name__}: {raised}, in {place}"
    said = f"{type(error).__name__}: {error}"
    if calls:
        arguments, result = calls[-1]
        return f"your function returned {_kind(result)}; wanted: {_wanted(one, arguments)} ({said})"
    return said


def _own_line(given, error: Exception) -> str:
    """ "line 3: `…`", the last of the reader's own lines that the error came through; "" if it came through none."""
    code = getattr(getattr(given, "fn", given), "__code__", None)
    if code is None:
        return ""
    frames = list(traceback.walk_tb(error.__traceback__))
    names = [(frame.f_code.co_filename, frame.f_code.co_name) for frame, _ in frames]
    if (code.co_filename, code.co_name) not in names:
        return ""
    begin = names.index((code.co_filename, code.co_name))
    frame, line = [one for one in frames[begin:] if one[0].f_code.co_filename == code.co_filename][-1]
    text = linecache.getline(code.co_filename, line, frame.f_globals).strip()
    return f"line {line}: `{text}`" if text else f"line {line}"


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
    """Of a function, or of what @triton.jit has made of one; of a lambda, without the statement around it."""
    function = getattr(function, "fn", function)
    if getattr(function, "__name__", "") == "<lambda>":
        file = inspect.getsourcefile(function)
        text = "".join(linecache.getlines(file, getattr(function, "__globals__", None)))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Lambda) and node.lineno == function.__code__.co_firstlineno:
                return textwrap.dedent(ast.get_source_segment(text, node))
    return textwrap.dedent(inspect.getsource(function))


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
    helps = f'({offers}, and solution("{name}"), help.)'
    if "\n" in problem:  # a list or a quotation ends where a line of its own begins
        gap = "\n\n" if problem.startswith("- ") else " "
        return Shown(f"{name}:{gap}{problem}\n\n{helps}")
    return Shown(f"{name}: {problem}{'' if problem.endswith(('?', '.')) else '.'} {helps}")


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
