"""Check your work before you hand it in: the cases that everybody knows. The graded ones differ in sizes and numbers.

    python check.py            all stages of this assignment
    python check.py s02        one of them
    python check.py s02 --all  every case, however many fail

Exit codes: 0 everything passed; 1 something is wrong or not written yet; 2 wrong arguments.
"""

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
    chosen = [a for a in sys.argv[1:] if not a.startswith("-")]
    options = [a for a in sys.argv[1:] if a.startswith("-")]
    if "--help" in options or "-h" in options:
        print(__doc__)
        return 0
    unknown = [stage for stage in chosen if stage not in ABOUT["stages"]]
    if unknown:
        print(f"stage is {unknown[0]!r}; accepted: {', '.join(ABOUT['stages'])}", file=sys.stderr)
        return 2
    sys.path.insert(0, str(HERE))
    good = True
    for stage in chosen or ABOUT["stages"]:
        good &= check_functions(stage, ABOUT["stages"][stage])
        good &= subprocess.run([sys.executable, "-m", "tools.check", stage, *options], cwd=HERE).returncode == 0
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
