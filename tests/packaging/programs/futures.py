"""Futures of a pool of processes, and of dask."""

from __future__ import annotations

from support import output

assert output("futures_main.py") == "2.0\ndivision by zero\n"
assert output("dask_main.py") == "2.0\ndivision by zero\n"
