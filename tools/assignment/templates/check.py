"""Check your work before you hand it in: what everybody may know. The graded cases differ in sizes and numbers.

    python check.py               all stages of this assignment
    python check.py s02           one of them
    python check.py s02 --all     every case, however many fail
    python check.py --hint NAME   more about the hole NAME, for who is stuck

In this order: may the files say what they say (the grader's own list), single functions, the stages' cases, and what
else can be measured here.

Exit codes: 0 everything passed; 1 something is wrong or not written yet; 2 wrong arguments; 130 interrupted.
"""

import argparse
import base64
import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ABOUT = json.loads((HERE / "assignment.json").read_text(encoding="utf-8"))


def check_stage(stage: str, arguments: list[str]) -> bool:
    """Say everything about one stage -> whether all is well."""
    from checks import files, functions, tiles

    file = files.file_of(stage)
    wrong = files.unreadable(stage)
    if wrong:
        print(f"{wrong}\nNothing of it can be graded.")
        return False
    refused = files.refused(stage)
    for line in refused:
        print(line)
    if refused:
        print("The grader refuses the whole file for that: none of its tests would give a point.\n")
    missing = files.undefined(stage)
    for line in missing:
        print(line)
    broken = functions.broken(stage)
    if broken:
        print(f"{file} cannot be imported: {broken}\nNothing of it can be graded.")
        return False
    bad = functions.check(stage)
    sys.stdout.flush()  # what the next process prints comes after this
    command = [sys.executable, "-m", "tools.check", stage, "--no-hints", *arguments]
    code = subprocess.run(command, cwd=HERE).returncode
    if code == 130:
        raise KeyboardInterrupt
    good = code == 0 and not (refused or missing or bad)
    if code == 0 and not bad:
        good &= tiles.check(stage)
    elif any(wanted["stage"] == stage for wanted in ABOUT["tiles"]):
        print("Tile by tile: tried as soon as everything above is right.")
    show_hints(stage, file, bad, code != 0, files.not_written(stage))
    return good


def show_hints(stage: str, file: str, bad: list[str], cases_fail: bool, unwritten: list[str]) -> None:
    """Where to look: the holes of which something is wrong. `bad`: functions whose own examples are."""
    own = {example["function"] for example in ABOUT["examples"] if example["stage"] == stage}
    lines = (HERE / file).read_text(encoding="utf-8", errors="replace").splitlines()
    for name, task in ABOUT["tasks"][stage].items():
        if name in own:
            concerned = name in bad
        else:  # the cases show it, once the functions that it calls are right
            concerned = name in unwritten or cases_fail and not bad
        if not concerned:
            continue
        marker = re.compile(rf"BEGIN SOLUTION {re.escape(name)}:")
        place = next((f", line {i}" for i, line in enumerate(lines, 1) if marker.search(line)), "")
        print(f"\n{name} ({file}{place})\n  {task['says']}")
        if task["hint"]:
            print(f"  If you are stuck: python check.py --hint {name}")


def hint(name: str) -> str:
    """What assignment.json has under the name; encoded there, so that nobody reads it by accident."""
    task = next(tasks[name] for tasks in ABOUT["tasks"].values() if name in tasks)
    return base64.b64decode(task["hint"]).decode("utf-8") if task["hint"] else task["says"]


def main() -> int:
    p = argparse.ArgumentParser(
        prog="python check.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = ", ".join(ABOUT["stages"])
    tasks = list(dict.fromkeys(name for names in ABOUT["tasks"].values() for name in names))
    p.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {stages}; none: all of them")
    p.add_argument("--case", default="", metavar="TEXT", help="only cases with TEXT in their name: causal, d64")
    p.add_argument("--all", action="store_true", help="run every case, however many fail")
    p.add_argument("--hint", metavar="NAME", help=f"say more about one hole, and do nothing else: {', '.join(tasks)}")
    args = p.parse_args()
    for stage in args.stages:
        if stage not in ABOUT["stages"]:
            p.error(f"STAGE is {stage!r}; accepted: {stages}")
    if args.hint is not None:
        if args.hint not in tasks:
            p.error(f"--hint is {args.hint!r}; accepted: {', '.join(tasks)}")
        print(f"{args.hint}: {hint(args.hint)}")
        return 0
    sys.path.insert(0, str(HERE))
    arguments = ["--all"] * args.all + (["--case", args.case] if args.case else [])
    try:
        return 0 if all([check_stage(stage, arguments) for stage in args.stages or ABOUT["stages"]]) else 1
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("numpy", "torch", "rich", "triton"):
            raise
        print(f"{missing.name} is not installed for {sys.executable}: see README.md, Set-up", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
