"""A worker of dramatiq, and the program of the page that awaits its results."""

from __future__ import annotations

from support import background, output

with background("-m", "dramatiq", "dramatiq_tasks", "--processes=1", "--threads=2"):
    assert output("dramatiq_main.py") == "2.0\ndivision by zero\n"
