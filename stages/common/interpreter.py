"""Import this before Triton: without a GPU the kernels are to run in Triton's interpreter.

Triton decides by an environment variable whether a kernel is compiled or interpreted, and it decides when a function is
decorated: for its own functions (`tl.max`, `tl.sum`, ...) when Triton itself is imported.
"""

import os
import sys

from stages.common.record import StageUnavailable
from stages.common.where import installed, interpreting

INTERPRETING = interpreting()

if INTERPRETING and os.environ.get("TRITON_INTERPRET") != "1":
    if "triton.language" in sys.modules:
        raise StageUnavailable(
            "Triton was imported before this stage, and not as an interpreter, which is all it can be without a GPU; "
            "import the stage first, or set TRITON_INTERPRET=1 in the environment before Python starts"
        )
    os.environ["TRITON_INTERPRET"] = "1"


def _take_the_one_element(tensor, *scope) -> None:
    """Within a launch, a scalar can be an index. Triton up to 3.6 writes int(array) for that, of an array of one
    element and one dimension, which NumPy from 2.5 on refuses."""
    _own(tensor, *scope)
    assign = scope[0].set_attr if scope else setattr
    assign(tensor, "__index__", lambda self: int(self.handle.data.item()))


if INTERPRETING and installed("triton"):
    import triton.runtime.interpreter

    _own = triton.runtime.interpreter._patch_lang_tensor
    triton.runtime.interpreter._patch_lang_tensor = _take_the_one_element
