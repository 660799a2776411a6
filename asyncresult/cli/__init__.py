"""The command line: ``asyncresult get|wait|watch|info|tree|…`` and ``python -m asyncresult``.

:func:`main` is the console script. What a command prints for others to read goes to stdout, everything said to the
person at the terminal to stderr, and the exit status says how it went (:class:`.status.Status`). Nothing that is not
needed for the command at hand is imported: ``--version`` and ``--help`` import no Redis client and no event loop.
"""

from __future__ import annotations

from .main import main

__all__ = ["main"]
