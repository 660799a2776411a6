"""For programs that check several things one after another."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from django.db import connections

PATIENCE = 60
"""Seconds for what takes none: a loaded machine must not fail a test."""


def raised(kind: type[BaseException], call: Callable[..., Any], *args: Any) -> str:
    """What is said by the exception of this kind that the call raises."""
    try:
        call(*args)
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def run_checks(checks: Iterable[Callable[[], None]]) -> int:
    """How many fail. Each is named on stderr."""
    failed = 0
    for check in checks:
        try:
            check()
        except BaseException:
            failed += 1
            sys.stderr.write(f"--- {check.__name__}\n")
            traceback.print_exc()
    connections.close_all()
    return failed
