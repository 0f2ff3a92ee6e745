"""Check your work before you hand it in: the cases that everybody knows. The graded ones differ in sizes and numbers.

    python check.py            all stages of this assignment
    python check.py s02        one of them
    python check.py s02 --all  every case, however many fail

Exit codes: 0 everything passed; 1 something is wrong or not written yet; 2 wrong arguments.
"""

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ABOUT = json.loads((HERE / "assignment.json").read_text(encoding="utf-8"))


def check_functions(stage: str, folder: str) -> bool:
    """Call the stage's functions with the examples in examples.npz."""
    wanted = [example for example in ABOUT["examples"] if example["stage"] == stage]
    if not wanted:
        return True
    data, good = np.load(HERE / "examples.npz"), True
    module = importlib.import_module(f"stages.{folder}.kernel")
    for example in wanted:
        key, names = example["key"], example["results"]
        arguments = [data[f"{key}_in{i}"] for i in range(example["arguments"])]
        try:
            with np.errstate(all="ignore"):
                got = getattr(module, example["function"])(*arguments)
        except NotImplementedError as error:
            print(f"{example['function']}: {error}")
            good = False
            continue
        wrong = []
        for i, (name, value) in enumerate(zip(names, got)):
            right = data[f"{key}_out{i}"]
            if np.shape(value) != right.shape or not np.allclose(value, right, rtol=1e-7, atol=1e-9):
                wrong.append(name)
        good &= not wrong
        print(f"{example['function']}, {example['title']}: {', '.join(wrong) + ' wrong' if wrong else 'right'}")
    return good


def main() -> int:
    p = argparse.ArgumentParser(
        prog="python check.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = ", ".join(ABOUT["stages"])
    p.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {stages}; none: all of them")
    p.add_argument("--case", default="", metavar="TEXT", help="only cases with TEXT in their name: causal, d64")
    p.add_argument("--all", action="store_true", help="run every case, however many fail")
    args = p.parse_args()
    for stage in args.stages:
        if stage not in ABOUT["stages"]:
            p.error(f"STAGE is {stage!r}; accepted: {stages}")
    sys.path.insert(0, str(HERE))
    good = True
    for stage in args.stages or ABOUT["stages"]:
        good &= check_functions(stage, ABOUT["stages"][stage])
        command = [sys.executable, "-m", "tools.check", stage]
        command += ["--all"] if args.all else []
        command += ["--case", args.case] if args.case else []
        good &= subprocess.run(command, cwd=HERE).returncode == 0
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
