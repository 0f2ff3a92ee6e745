"""Single functions of a stage: what they return for the examples in examples.npz, beside what they have to."""

import importlib
import itertools
import traceback
from pathlib import Path

import numpy as np

from checks.files import HERE, about, file_of, not_written


def broken(stage: str) -> str:
    """What importing the file raises, where there are functions to call, or ""."""
    if not _examples(stage):
        return ""
    try:
        _module(stage)
    except (Exception, SystemExit) as error:
        return raised(error, HERE / file_of(stage))
    return ""


def check(stage: str) -> list[str]:
    """Call the stage's functions with the examples, and say what came out -> those that are wrong or not written."""
    bad, examples, unwritten = [], _examples(stage), not_written(stage)
    for name in dict.fromkeys(example["function"] for example in examples):
        mine = [example for example in examples if example["function"] == name]
        if name in unwritten:
            print(f"{name}: not written yet")
            bad.append(name)
            continue
        with np.load(HERE / "examples.npz") as data:
            said = [problem(_module(stage), example, data) for example in mine]
        if len(set(said)) == 1 and said[0]:  # nothing that one test asks, but the function as a whole
            print(f"{name}: {said[0]}")
        else:
            for example, wrong in zip(mine, said):
                print(f"{name}, {example['title']}: {wrong or 'right'}")
        if any(said):
            bad.append(name)
    return bad


def _examples(stage: str) -> list[dict]:
    return [example for example in about()["examples"] if example["stage"] == stage]


def _module(stage: str):
    return importlib.import_module(f"stages.{about()['stages'][stage]}.kernel")


def problem(module, example: dict, data) -> str:
    """What is wrong with the first call that is, or ""."""
    name = example["function"]
    function = getattr(module, name, None)
    if not callable(function):
        return f"{name} is not defined in {file_of(example['stage'])}"
    for key in example["keys"]:
        arguments = [data[f"{key}_in{i}"] for i in range(example["arguments"])]
        expected = [data[f"{key}_out{i}"] for i in range(len(example["results"]))]
        try:
            with np.errstate(all="ignore"):
                got = function(*arguments)
        except (Exception, SystemExit) as error:
            return raised(error, Path(module.__file__))
        wrong = differs(got, expected, example["results"])
        if wrong:
            return wrong
    return ""


def differs(got, expected: list[np.ndarray], names: list[str]) -> str:
    """What distinguishes the results from what is expected: how many, which, how much and in which row. Or ""."""
    wanted = f"expected {len(names)} values, {', '.join(names)}" if len(names) > 1 else f"expected {names[0]}"
    if got is None:
        return f"returned None; {wanted}. Is there a return, on every way through?"
    values = got if isinstance(got, tuple) else (got,)
    if len(values) != len(names):
        return f"returned {len(values)} value{'s' * (len(values) != 1)}; {wanted}"
    arrays = []
    for name, value in zip(names, values):
        try:
            arrays.append(np.asarray(value, dtype=np.float64))
        except (TypeError, ValueError):
            return f"{name} is no array of numbers, but {type(value).__name__}"
    wrong = [one for one in map(_differs, names, arrays, expected) if one]
    if not wrong:
        return ""
    for order in itertools.permutations(range(len(names))):
        if not any(_differs("", arrays[i], right) for i, right in zip(order, expected)):
            came = ", ".join(names[order.index(i)] for i in range(len(names)))
            return f"the values come in another order: {came}; expected {', '.join(names)}"
    return "; ".join(wrong)


def _differs(name: str, value: np.ndarray, right: np.ndarray) -> str:
    if value.shape != right.shape:
        return f"{name} wrong: its shape is {value.shape}, expected {right.shape}"
    finite = np.isfinite(right)
    bad = ~finite & (value != right) | finite & ~np.isfinite(value)
    size = np.abs(right[finite]).max() if finite.any() else 0
    with np.errstate(all="ignore"):
        error = np.where(finite & ~bad, np.abs(value - right), 0)
    bad |= error > about()["tolerance"] * max(size, 1e-30)
    if not bad.any():
        return ""
    # A value that is not even finite, or not infinite where it should be, comes before the largest error.
    worst = np.unravel_index(np.argmax(np.where(bad & (~finite | ~np.isfinite(value)), np.inf, error)), bad.shape)
    rows = np.unique(np.nonzero(bad)[0]) if bad.ndim else [0]
    place = f"row {worst[0]}" + "".join(f", column {i}" for i in worst[1:]) if bad.ndim else "it"
    largest = f", off by {error[worst]:.3g}" if error[worst] else ""
    many = f"{len(rows)} of {len(bad)} rows" if bad.ndim else "it"
    return f"{name} wrong in {many}: {place} is {value[worst]:.6g}, expected {right[worst]:.6g}{largest}"


def raised(error: BaseException, path: Path) -> str:
    """An exception in a line: what it is, and where in the file."""
    if isinstance(error, NotImplementedError) and "YOUR CODE HERE" in str(error):
        return f"not written yet: {error}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    place = f", line {lines[-1]} of {path.relative_to(HERE)}" if lines else ""
    return f"{type(error).__name__}: {error}{place}"
