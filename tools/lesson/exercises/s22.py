"""Exercises of notebooks/s22_eager_loads."""

from __future__ import annotations

from tools.lesson.answers import exercise


def groups(committed, needed):
    """The N of cp_async_wait<N>: the most groups that may still be under way when number `needed`, counted from 0, has
    to be there, and `committed` of them have been committed."""
    return committed - needed - 1


@exercise(
    "s22.groups",
    solution=groups,
    wrong=(
        lambda committed, needed: 0,
        lambda committed, needed: committed - needed,
        lambda committed, needed: needed,
        lambda committed, needed: needed + 1,
    ),
    hints=(
        "Groups come in the order in which they were committed. Which of them may be missing when number `needed` is "
        "there?",
        "Those that were committed after it. With 3 committed, numbered 0 to 2, and number 0 needed, these are two.",
    ),
)
def check_groups(answer) -> str:
    for committed in range(1, 5):
        for needed in range(committed):
            got, most = answer(committed, needed), committed - needed - 1
            said = f"{committed} groups committed, number {needed} needed: wait<{got}>"
            if not isinstance(got, int) or got < 0:
                return f"{said} is no wait; N is a number from 0 up"
            if got > most:
                return f"{said} may leave number {needed} under way"
            if got < most:
                return f"{said} also waits for groups that nobody needs yet"
    return ""


def order(tiles):
    """s22's loop."""
    steps = ["copy K0"]
    for t in range(tiles):
        steps += ["wait", f"copy V{t}", f"QK{t}", f"softmax{t}", "wait"]
        if t + 1 < tiles:
            steps += [f"copy K{t + 1}"]
        steps += [f"PV{t}"]
    return steps


def s21_order(tiles):
    """s20's and s21's loop."""
    steps = []
    for t in range(tiles):
        steps += [f"copy K{t}", "wait", f"QK{t}", f"softmax{t}", f"copy V{t}", "wait", f"PV{t}"]
    return steps


def _V_before_the_barrier(tiles):
    steps = ["copy K0"]
    for t in range(tiles):
        steps += [f"copy V{t}", "wait", f"QK{t}", f"softmax{t}", "wait", f"copy K{t + 1}", f"PV{t}"]
    return steps


def _K_before_the_barrier(tiles):
    steps = ["copy K0"]
    for t in range(tiles):
        steps += ["wait", f"copy V{t}", f"QK{t}", f"copy K{t + 1}", f"softmax{t}", "wait", f"PV{t}"]
    return steps


def _only_V(tiles):
    steps = []
    for t in range(tiles):
        steps += [f"copy K{t}", "wait", f"copy V{t}", f"QK{t}", f"softmax{t}", "wait", f"PV{t}"]
    return steps


def _three_waits(tiles):
    steps = ["copy K0", "wait"]
    for t in range(tiles):
        steps += ["wait", f"copy V{t}", f"QK{t}", f"softmax{t}", "wait", f"copy K{t + 1}", f"PV{t}", "wait"]
    return steps


@exercise(
    "s22.order",
    solution=order,
    wrong=(
        s21_order,
        _V_before_the_barrier,
        _K_before_the_barrier,
        _only_V,
        _three_waits,
        lambda tiles: [step for step in order(tiles) if step != "wait"],
        lambda tiles: order(tiles - 1),
        lambda tiles: ["copy K", "wait"],
    ),
    hints=(
        "For each of K and V: which is the last step that reads the old tile? After the next `wait` behind it the "
        "place is free.",
        "V's place was read last by P V of the tile before. The next wait is at the top of the loop: V "
        "can be asked for right after it.",
        "K's place is read by Q K of this tile. The next wait is the one before P V: behind it, ask for K of the next "
        "tile, and ask for the first K before the loop.",
    ),
)
def check_order(answer) -> str:
    from tools.lesson.orders import ops_of, problem_of
    from tools.pictures.pipeline import timed, timeline

    for tiles in (1, 2, 4):
        steps = list(answer(tiles))
        problem = problem_of(steps, tiles, buffers=1)
        if problem:
            return f"{tiles} tiles: {problem}"
        waits = steps.count("wait")
        if waits > 2 * tiles:
            return f"{tiles} tiles: {waits} waits; two a tile are enough"
    waiting, best = timed(ops_of(answer(4))).waiting, timeline("s22", 4).waiting
    if waiting > best:
        return f"right, but 4 tiles wait for {waiting:g} units of the model; {best:g} can be had"
    return ""
