"""Sphinx's settings for the book. `python -m docs` assembles the pages and calls Sphinx; see docs/_ext/assemble.py."""

import importlib.util
import sys
from pathlib import Path

from sphinx.util.fileutil import copy_asset

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project = "Fast attention, one idea at a time"
author = "The flash-attention course authors"
copyright = "The flash-attention course authors, MIT licence"
language = "en"

extensions = ["myst_nb", "sphinx_design", "sphinx.ext.mathjax"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_repo", "_extra", "_pictures"]
nb_execution_mode = "off"  # notebooks carry their outputs
nb_render_markdown_format = "myst"  # tables in their outputs
nb_ipywidgets_js = {}  # no widget state is committed, and its scripts would come from elsewhere
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
suppress_warnings = ["mystnb.unknown_mime_type"]

mathjax_path = "mathjax/tex-chtml.js"  # of the package sphinx-mathjax-offline; see `copy_mathjax`
mathjax3_config = {
    "tex": {"macros": {"rowsum": r"\operatorname{rowsum}", "diag": r"\operatorname{diag}"}},
    "options": {"enableMenu": False},  # its parts would be looked for elsewhere
}

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = [str(ROOT / "build" / "book" / "_static")]
html_css_files = ["book.css", "diff.css"]
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": True,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the sidebar has the search
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "pygments_light_style": "default",
    "pygments_dark_style": "monokai",
}


def copy_mathjax(app, problem) -> None:
    """MathJax and its fonts into the book: the parts that are used, of the many that the package has."""
    if problem is not None or app.builder.format != "html":
        return
    package = Path(importlib.util.find_spec("sphinx-mathjax-offline").submodule_search_locations[0])
    to = Path(app.outdir) / "_static" / "mathjax"
    for part in ("tex-chtml.js", "output/chtml/fonts/woff-v2", "a11y/assistive-mml.js"):
        folder = (to / part).parent if "." in part else to / part
        folder.mkdir(parents=True, exist_ok=True)
        copy_asset(package / "static" / "mathjax" / part, folder)


def use_source_tree(app, config) -> None:
    """Static files and whole pages lie in the assembled tree, wherever that is."""
    config.html_static_path = [str(Path(app.srcdir) / "_static")]
    config.html_extra_path = [str(Path(app.srcdir) / "_extra")]


def setup(app) -> dict:
    app.connect("config-inited", use_source_tree)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
