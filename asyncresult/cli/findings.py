"""What the checks of ``doctor`` report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Severity"]

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
