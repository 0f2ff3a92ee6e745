"""What the notebooks are made with: pieces of the stages' own code, the reference, the emulator, recorded data,
exercises.

A notebook holds no copy of a kernel and no typed figure. It asks for a piece of the file (`code`), for a difference
(`difference`), for what was measured (`measured`, `quoted`), and runs what can be run where it is (`try_stage`,
`counted`). A piece that is no longer there, or a figure that nobody recorded, is an error: the notebook fails.
"""

from tools.lesson.answers import answer, hint, solution
from tools.lesson.interpreted import asked, traced, visited
from tools.lesson.listings import listing
from tools.lesson.live import compiled, counted, found, here, planted, try_stage
from tools.lesson.pieces import LessonError, code, difference
from tools.lesson.recorded import bought, instructions, measured, quoted
from tools.lesson.shown import Shown, show, slider, table
from tools.lesson.tiny import by_line, tiny

__all__ = [
    "LessonError",
    "Shown",
    "answer",
    "asked",
    "bought",
    "by_line",
    "code",
    "compiled",
    "counted",
    "difference",
    "found",
    "here",
    "hint",
    "instructions",
    "listing",
    "measured",
    "planted",
    "quoted",
    "show",
    "slider",
    "solution",
    "table",
    "tiny",
    "traced",
    "try_stage",
    "visited",
]
