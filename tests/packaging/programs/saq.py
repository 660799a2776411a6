"""A worker of SAQ, and the program of the page that awaits its results."""

from __future__ import annotations

from support import background, output

with background("-m", "saq", "saq_tasks.settings"):
    assert output("saq_main.py") == "2.0\ndivision by zero\n"
