"""``doctor``: why a result does not come. What is looked at is in :mod:`.checks`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .._checks import check_task_id
from .output import coloured, escaped, say, write, write_json
from .source import connected, load_app, make_backend, read_ids, run
from .status import CommandError, Status

if TYPE_CHECKING:
    from .checks.findings import Finding

__all__ = ["doctor"]

_COLOURS = {"ok": "32", "note": "2", "warning": "33", "error": "31"}


def doctor(arguments: argparse.Namespace) -> int:
    """Examine the store, or one task, and print what was found. Status 1 if something is wrong."""
    return run(_doctor(arguments))


async def _doctor(arguments: argparse.Namespace) -> int:
    findings: list[Finding] = []
    (id,) = read_ids([arguments.id], check_task_id) if arguments.id is not None else (None,)
    app: Any = load_app(arguments.app) if arguments.app else None
    examined = _examine(arguments, app) if id is None else _examine_task(arguments, app, id)
    status: int = Status.SUCCESS
    try:
        async for finding in examined:
            findings.append(finding)
            if not arguments.json:
                _print(finding)
    except CommandError as error:
        if not findings:
            raise
        status = error.status
        say(str(error))
    if arguments.json:
        write_json({"findings": [asdict(finding) for finding in findings]})
    else:
        count = sum(finding.severity in ("warning", "error") for finding in findings)
        write(f"{count} problem{'s' * (count > 1)} found" if count else "no problems found")
    return status or (Status.FAILED if any(finding.severity == "error" for finding in findings) else Status.SUCCESS)


async def _examine(arguments: argparse.Namespace, app: Any) -> AsyncIterator[Finding]:
    from .checks import store

    if app is not None:
        timeout = arguments.connect_timeout
        async for finding in store.examine_app(app, url=arguments.url, timeout=timeout):
            yield finding
            if finding.check == "table":
                return  # there is none: whatever looks into it fails
        if _comes_by_rpc(arguments, app):
            return
    async for finding in store.examine_topology(make_backend(arguments)):
        yield finding
    async with connected(arguments, to_examine=True) as backend:
        async for finding in store.examine_store(backend):
            yield finding


async def _examine_task(arguments: argparse.Namespace, app: Any, id: str) -> AsyncIterator[Finding]:
    from .checks import task

    timeout = arguments.connect_timeout
    if app is not None and _comes_by_rpc(arguments, app):
        yield await task.look_for_task(app, id, timeout=timeout)
        return
    async with connected(arguments) as backend:
        async for finding in task.examine_task(backend, id, app, timeout=timeout):
            yield finding


def _comes_by_rpc(arguments: argparse.Namespace, app: Any) -> bool:
    from ..integrations.celery.rpc import is_rpc

    return not arguments.url and is_rpc(app)


def _print(finding: Finding) -> None:
    severity = f"{finding.severity:<7}"
    if coloured(sys.stdout):
        severity = f"\x1b[{_COLOURS[finding.severity]}m{severity}\x1b[0m"
    write(f"{severity}  {finding.check}: {escaped(finding.message)}")
    if finding.fix:
        write(f"{'':7}  fix: {escaped(finding.fix)}")
