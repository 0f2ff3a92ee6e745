"""Pack what you hand in: python submit.py writes submission.zip beside this file."""

import json
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    wanted = json.loads((HERE / "assignment.json").read_text(encoding="utf-8"))["submit"]
    missing = [name for name in wanted if not (HERE / name).is_file()]
    if missing:
        print(f"{missing[0]} is missing", file=sys.stderr)
        return 1
    with zipfile.ZipFile(HERE / "submission.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in wanted:
            packed.write(HERE / name, name)
            if "YOUR CODE HERE" in (HERE / name).read_text(encoding="utf-8"):
                print(f"note: {name} still says YOUR CODE HERE somewhere")
    print(f"submission.zip holds {', '.join(wanted)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
