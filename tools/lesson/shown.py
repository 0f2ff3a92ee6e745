"""How a lesson shows things: text that Jupyter renders, pictures small enough to commit, sliders without state."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure

from tools.plot import style

STATIC = "LESSON_STATIC"  # set where a notebook is executed to be committed: pictures instead of widgets
DPI = 110


class Shown:
    """Markdown for Jupyter, GitHub and the book; the same as plain text in a terminal."""

    def __init__(self, markdown: str, text: str | None = None) -> None:
        self.markdown = markdown
        self.text = markdown if text is None else text

    def _repr_markdown_(self) -> str:
        return self.markdown

    def __repr__(self) -> str:
        return self.text


def table(header: Sequence, rows: Sequence[Sequence], text_columns: int = 1) -> Shown:
    """A table; the columns after the first `text_columns` are right-aligned."""
    from tools.figures import table as markdown_table

    return Shown(markdown_table([*map(str, header)], [[*map(str, row)] for row in rows], text_columns))


class Picture:
    """A figure as a PNG of few colours. Its `alt`, if it has one, is what a reader hears who does not see it."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.alt = getattr(figure, "alt", "")

    def _repr_mimebundle_(self, include=None, exclude=None):
        data = {"image/png": png(self.figure), "text/plain": repr(self)}
        return data, {"image/png": {"alt": self.alt}} if self.alt else {}

    def __repr__(self) -> str:
        return self.alt or "a picture"


def png(figure: Figure) -> bytes:
    """A third of the size that matplotlib's own has: drawings need no more than 256 colours."""
    from PIL import Image

    drawn = io.BytesIO()
    with rc_context(style.SETTINGS):
        figure.savefig(drawn, format="png", dpi=DPI, metadata={"Software": None})
    small = io.BytesIO()
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return small.getvalue()


def show(figure: Figure) -> Picture:
    """The last line of a cell that draws."""
    return Picture(figure)


def slider(draw: Callable[..., Figure], **choices: Sequence) -> Picture | None:
    """draw(**values) -> Figure, with a slider for each of `choices`; the first value of each is where it begins.

    Where the notebook is executed to be committed, or there are no widgets, it is the picture at the first values.
    """
    first = {name: values[0] for name, values in choices.items()}
    if os.environ.get(STATIC):
        return show(draw(**first))
    try:
        from ipywidgets import SelectionSlider, interact
    except ImportError:
        return show(draw(**first))
    from IPython.display import display

    sliders = {name: SelectionSlider(options=list(values), value=values[0]) for name, values in choices.items()}
    interact(lambda **values: display(show(draw(**values))), **sliders)
    return None
