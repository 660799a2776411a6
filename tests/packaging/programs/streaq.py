"""A worker of streaq, and the program of the page that awaits its results."""

from __future__ import annotations

from support import background, output

with background("-m", "streaq", "run", "streaq_tasks:worker"):
    assert output("streaq_main.py") == "2.0\ndivision by zero\n"
