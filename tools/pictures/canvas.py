"""What all pictures share: a figure with title, alternative text and the house style, and cells with text in them."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable

import matplotlib
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path
from PIL import Image

from tools.plot import style

WIDTH = 7.5  # inches: the text's width on a page of the book
SMALLEST = 8  # points
DPI = 130
COLOURS_OF_A_NOTEBOOK = 128  # a third of the bytes that all colours would take: notebooks are kept in git
GREY, PALE, DARK = "#C8C8C8", "#F2F2F2", "#444444"


class Picture(Figure):
    """A Figure that says what is seen on it, in `alt`, and that a notebook shows without pyplot."""

    alt: str = ""

    def _repr_png_(self) -> tuple[bytes, dict]:
        drawn, packed = io.BytesIO(), io.BytesIO()
        with matplotlib.rc_context(style.SETTINGS):
            self.savefig(drawn, format="png", dpi=DPI)
        image = Image.open(drawn).convert("RGB")
        image.quantize(COLOURS_OF_A_NOTEBOOK, dither=Image.Dither.NONE).save(packed, format="png", optimize=True)
        width, height = self.get_size_inches()
        return packed.getvalue(), {"width": round(96 * width), "height": round(96 * height), "alt": self.alt}


def picture(height: float, title: str, subtitle: str, alt: str, footer: str = "", width: float = WIDTH) -> Picture:
    """An empty picture of so many inches; subtitle and footer are broken into lines that fit."""
    if width > WIDTH:
        raise ValueError(f"width is {width}; accepted: at most {WIDTH} inches")
    fig = Picture(figsize=(width, height), facecolor="white")
    fig.alt = alt
    subtitle, footer = _wrapped(subtitle, width, 9), _wrapped(footer, width, 8.5)
    fig.text(0.1 / width, 1 - 0.08 / height, title, fontsize=12, fontweight="bold", va="top")
    fig.text(0.1 / width, 1 - 0.33 / height, subtitle, fontsize=9, color=DARK, va="top", linespacing=1.25)
    fig.text(0.1 / width, 0.07 / height, footer, fontsize=8.5, color=DARK, va="bottom", linespacing=1.25)
    top = 1 - (0.42 + 0.16 * _lines(subtitle)) / height
    bottom = (0.14 + 0.15 * _lines(footer)) / height if footer else 0.02
    fig.set_layout_engine("constrained", rect=(0.005, bottom, 0.985, top - bottom))
    return fig


def in_style(draw: Callable[..., Picture]) -> Callable[..., Picture]:
    """A drawing function in the house style, whoever calls it."""

    @functools.wraps(draw)
    def styled(*args, **kwargs) -> Picture:
        with matplotlib.rc_context(style.SETTINGS):
            return draw(*args, **kwargs)

    return styled


def _wrapped(text: str, width: float, size: float) -> str:
    """The words of a text in lines of at most so many inches, in letters of so many points."""
    lines, font = [""], FontProperties(size=size)
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        long = text_to_path.get_text_width_height_descent(longer, font, ismath=False)[0]
        if long <= 0.91 * 72 * width:  # in pixels, letters come out up to a twentieth wider
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def _lines(text: str) -> int:
    return text.count("\n") + 1 if text else 0


def bare(ax) -> None:
    """Axes without spines, ticks and grid, for cells."""
    ax.grid(False)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)


def cell(
    ax, column: float, row: float, text: str = "", *, colour="white", size=(1.0, 1.0), frame=False, **font
) -> None:
    """A rectangle with its upper left corner there, on axes whose rows go down, and text in the middle."""
    edge, line = ("black", 1.8) if frame else ("white", 0.7)
    ax.add_patch(
        Rectangle((column, row), *size, facecolor=colour, edgecolor=edge, linewidth=line, zorder=3 if frame else 2)
    )
    if text:
        options = {"fontsize": SMALLEST, "color": ink(colour)} | font
        ax.text(column + size[0] / 2, row + size[1] / 2, text, ha="center", va="center", zorder=4, **options)


def cells(ax, rows: float, columns: float) -> None:
    """Make axes ready for cells: limits, rows downwards, nothing else."""
    bare(ax)
    ax.set_xlim(-0.05, columns + 0.05)
    ax.set_ylim(rows + 0.05, -0.05)


def ink(colour) -> str:
    """Black or white, whichever is read more easily on the colour."""
    return "white" if luminance(colour) < 0.179 else "black"


def luminance(colour) -> float:
    """Relative luminance as WCAG 2 defines it: 0 black, 1 white."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def tint(colour, share: float) -> tuple[float, float, float]:
    """The colour mixed with white: share 1 the colour, 0 white."""
    return tuple(1 - share * (1 - c) for c in to_rgb(colour))
