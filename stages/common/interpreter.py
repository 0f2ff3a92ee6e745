"""Import this before `triton.jit` decorates anything: without a GPU the kernels are to run in Triton's interpreter.

Triton decides at decoration, by this environment variable, whether a kernel is compiled or interpreted.
"""

import os

from stages.common.where import interpreting

INTERPRETING = interpreting()

if INTERPRETING:
    os.environ["TRITON_INTERPRET"] = "1"
