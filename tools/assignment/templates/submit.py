"""Pack what you hand in: submission.zip, beside this file.

    python submit.py            nothing is packed when a file is empty, does not parse, or would be refused
    python submit.py --anyway   packed as it is

Exit codes: 0 packed; 1 not; 2 wrong arguments.
"""

import argparse
import json
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ABOUT = json.loads((HERE / "assignment.json").read_text(encoding="utf-8"))


def problems() -> list[str]:
    """Why the grader would give nothing for what is there."""
    sys.path.insert(0, str(HERE))
    try:
        from checks import files
    except ModuleNotFoundError as missing:
        return [f"{missing.name} is not installed for {sys.executable}, so nothing was checked: see README.md, Set-up."]
    return [line for stage in ABOUT["stages"] for line in files.problems(stage)]


def main() -> int:
    p = argparse.ArgumentParser(
        prog="python submit.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--anyway", action="store_true", help="pack what the grader would refuse, too")
    args = p.parse_args()
    wanted, packed_into = ABOUT["submit"], HERE / "submission.zip"
    found = problems()
    for line in found:
        print(line, file=sys.stderr)
    there = [name for name in wanted if (HERE / name).is_file()]
    if not there or found and not args.anyway:
        old = "; the submission.zip that is here is an older one" if packed_into.exists() else ""
        print(f"Not packed{old}. --anyway packs it as it is.", file=sys.stderr)
        return 1
    with zipfile.ZipFile(packed_into, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in there:
            packed.write(HERE / name, name)
            if "YOUR CODE HERE" in (HERE / name).read_text(encoding="utf-8", errors="replace"):
                print(f"note: {name} still says YOUR CODE HERE somewhere")
    print(f"submission.zip holds {', '.join(there)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
