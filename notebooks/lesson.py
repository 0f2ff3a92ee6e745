"""`from lesson import …`: what the notebooks use, tools/lesson/, from wherever Jupyter was started."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.lesson import *  # noqa: E402, F403
