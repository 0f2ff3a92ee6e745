"""The pictures of tools.pictures in the book: drawn when it is built, each with its sentence of alternative text.

A chapter asks for one by a comment of its own on a line, `picture:` and the picture's name, which shows nowhere else.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable

import matplotlib

from stages import Stage
from tools import results
from tools.pictures import recorded, step
from tools.pictures.catalogue import CATALOGUE
from tools.plot import style

MARKER = re.compile(r"<!--\s*picture:\s*(?P<name>\S+)\s*-->")


class UnknownPicture(ValueError):
    """A chapter asks for a picture that there is not. The message names both, and what is accepted."""


class Pictures:
    """The pictures that have been asked for: file of the book -> PNG."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    @functools.cached_property
    def _sheet(self):
        return recorded.sheet()

    def text(self, document: str, place: str, markdown: str) -> str:
        """The page `place` with an image for every marker in it."""

        def image(match: re.Match) -> str:
            name = match["name"]
            if name not in CATALOGUE:
                accepted = ", ".join(CATALOGUE)
                raise UnknownPicture(f"{document}: picture is {name!r}; accepted: {accepted}")
            return self._image(place, name, CATALOGUE[name])

        return MARKER.sub(image, markdown)

    def step(self, place: str, stage: Stage) -> str:
        """A stage's place on the ladder; "" where it was not timed."""
        try:
            return self._image(place, f"step-{stage.short}", lambda: step.draw(stage.name, sheet=self._sheet))
        except results.NoData:
            return ""

    def _image(self, place: str, name: str, draw: Callable) -> str:
        figure, drawn = draw(), io.BytesIO()
        with matplotlib.rc_context(style.SETTINGS):
            figure.savefig(drawn, format="png", **dict(style.FORMATS)["png"])
        self.files[f"_pictures/{name}.png"] = drawn.getvalue()
        up = "../" * place.count("/")
        alt = re.sub(r"([\[\]*_`$\\])", r"\\\1", " ".join(figure.alt.split()))
        return f"![{alt}]({up}_pictures/{name}.png)"
