"""Import this before Triton: without a GPU the kernels are to run in Triton's interpreter.

Triton decides by an environment variable whether a kernel is compiled or interpreted, and it decides when a function is
decorated: for its own functions (`tl.max`, `tl.sum`, ...) when Triton itself is imported.
"""

import os
import sys

from stages.common.record import StageUnavailable
from stages.common.where import interpreting

INTERPRETING = interpreting()

if INTERPRETING and os.environ.get("TRITON_INTERPRET") != "1":
    if "triton.language" in sys.modules:
        raise StageUnavailable(
            "Triton was imported before this stage, and not as an interpreter, which is all it can be without a GPU; "
            "import the stage first, or set TRITON_INTERPRET=1 in the environment before Python starts"
        )
    os.environ["TRITON_INTERPRET"] = "1"
