"""How Sphinx builds the documentation: ``python3 dev docs``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from asyncresult import __version__  # noqa: E402  # the path above comes first

project = "asyncresult"
author = "asyncresult contributors"
copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.intersphinx", "sphinx_copybutton"]
exclude_patterns = ["_build"]
templates_path: list[str] = []

html_theme = "furo"
html_title = f"asyncresult {release}"
html_static_path: list[str] = []
html_extra_path = ["llms.txt"]
html_theme_options = {
    "source_repository": "https://github.com/asyncresult/asyncresult",
    "source_directory": "docs/",
    "top_of_page_buttons": [],
}
html_show_sphinx = False
html_show_sourcelink = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

# Pages are Markdown that can be read on its own, too; links between them are checked.
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nitpicky = False
# A name such as AsyncResult is there twice: asynchronous, and blocking in asyncresult.sync.
suppress_warnings = ["ref.python"]

# Docstrings have the sections of our own that style asks for: Wire (commands sent) and Source (whose rule it is).
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Wire", "Source", ("Raises (while iterating)", "raises")]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False

# The inventory of Python's own documentation is not needed to build: no network.
intersphinx_mapping: dict[str, Any] = {}

linkcheck_ignore = [r"https://github\.com/asyncresult/.*", r"https://asyncresult\.github\.io/.*"]

_TITLED = re.compile(r'^( *)```(\w+) title="([^"\n]*)"$', re.MULTILINE)


def _show_titles(app: object, page: str, source: list[str]) -> None:
    """A code block's title becomes its caption. (In plain Markdown it is passed over.)"""
    source[0] = _TITLED.sub(r"\1```{code-block} \2\n\1:caption: \3\n", source[0])


def _make_rubrics(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """A heading in a docstring ("Theory of operation") is no section of the page: several modules have the same."""
    for number in range(len(lines) - 1, 0, -1):
        if re.fullmatch(r"=+|-+", lines[number]) and len(lines[number]) == len(lines[number - 1]) > 3:
            lines[number - 1 : number + 1] = [f".. rubric:: {lines[number - 1]}", ""]


#: What axe finds in the pages of the theme, and what is there instead.
_BARRIERS = {
    '<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="All pages">',
    '<aside class="toc-drawer': '<aside aria-label="This page" class="toc-drawer',
    '<th class="head"><p></p></th>': '<td class="head"></td>',
    # What scrolls sideways must be reached by the keyboard, too.
    "<pre": '<pre tabindex="0"',
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    '<div id="search-results"></div>': '<h1>Search</h1>\n<div id="search-results"></div>',
}
_PARAMETERS = re.compile(r"<dl>\n((?:<dd>.*</dd>\n)+)</dl>")
"""A long signature: a list of definitions without terms, which is none."""


def _as_lines(parameters: re.Match[str]) -> str:
    lines = parameters[1].replace("<dd>", '<div style="margin-left: 2rem">').replace("</dd>", "</div>")
    return f"<div>\n{lines}</div>"


def _remove_barriers(app: Any, error: Exception | None) -> None:
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for found, instead in _BARRIERS.items():
            text = text.replace(instead, found).replace(found, instead)  # once, also where the page was not built anew
        page.write_text(_PARAMETERS.sub(_as_lines, text), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("build-finished", _remove_barriers)
    app.connect("source-read", _show_titles)
    app.connect("autodoc-process-docstring", _make_rubrics)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
