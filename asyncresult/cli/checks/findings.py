"""What the checks of ``doctor`` report."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ..server import Refused, Server

__all__ = ["Check", "Finding", "Severity", "run_checks"]

Severity = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """What one check has found.

    Attributes:
        check: The check's name.
        severity: ``ok``, ``note`` (a fact), ``warning`` (may lose or delay results) or ``error`` (does).
        message: What was seen.
        fix: What to do; empty where there is nothing to do.
    """

    check: str
    severity: Severity
    message: str
    fix: str = ""


Check = Callable[[Server], Awaitable[list[Finding]]]


async def run_checks(server: Server, checks: Mapping[str, Check]) -> list[Finding]:
    """The findings of checks by name, at a server; what the server refuses to report is a note."""
    found: list[Finding] = []
    for name, check in checks.items():
        try:
            found += await check(server)
        except Refused as error:
            found.append(Finding(name, "note", f"not examined: {error}"))
    return found
