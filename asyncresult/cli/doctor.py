"""``doctor``: why a result does not come.

Each check looks at one thing and gives findings: how bad it is, what was seen, and what to do about it. A check that
the server does not allow says so, and the others go on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from .._checks import check_task_id
from .findings import Finding
from .output import coloured, escaped, write, write_json
from .source import connected, load_app, read_ids, run
from .status import Status

__all__ = ["doctor"]

_COLOURS = {"ok": "32", "note": "2", "warning": "33", "error": "31"}


def doctor(arguments: argparse.Namespace) -> int:
    """Examine the store, or one task, and print what was found. Status 1 if something is wrong."""
    return run(_doctor(arguments))


async def _doctor(arguments: argparse.Namespace) -> int:
    findings: list[Finding] = []
    (id,) = read_ids([arguments.id], check_task_id) if arguments.id is not None else (None,)
    async for finding in _examine(arguments, id):
        findings.append(finding)
        if not arguments.json:
            _print(finding)
    worst_is_error = any(finding.severity == "error" for finding in findings)
    if arguments.json:
        write_json({"findings": [asdict(finding) for finding in findings]})
    else:
        count = sum(finding.severity in ("warning", "error") for finding in findings)
        write(f"{count} to look at" if count else "nothing to look at")
    return Status.FAILED if worst_is_error else Status.SUCCESS


async def _examine(arguments: argparse.Namespace, id: str | None) -> AsyncIterator[Finding]:
    from . import checks, task_checks

    app: Any = load_app(arguments.app) if arguments.app else None
    async with connected(arguments) as backend:
        if id is not None:
            async for finding in task_checks.examine(backend, id, app):
                yield finding
        else:
            async for finding in checks.examine(backend, app):
                yield finding


def _print(finding: Finding) -> None:
    severity = f"{finding.severity:<7}"
    if coloured(sys.stdout):
        severity = f"\x1b[{_COLOURS[finding.severity]}m{severity}\x1b[0m"
    write(f"{severity}  {finding.check}: {escaped(finding.message)}")
    if finding.fix:
        write(f"{'':7}  fix: {escaped(finding.fix)}")
