"""``watch``: the states of tasks as they come."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import shutil
import sys
from datetime import UTC, datetime
from typing import Any, Protocol

from .._checks import check_task_id
from .._handles.updates import Updates
from ..backend import Backend
from ..errors import ResultDecodeError
from ..meta import TaskMeta
from .output import describe, escaped, moves_cursor, say, write, write_json
from .source import connected, read_ids, run
from .status import CommandError, Status, status_of_state

__all__ = ["watch"]


class View(Protocol):
    """How states are shown."""

    def open(self) -> None: ...
    def show(self, id: str, meta: TaskMeta, state_id: str | None) -> None: ...
    def close(self) -> None: ...


def watch(arguments: argparse.Namespace) -> int:
    """Follow tasks until all have ended."""
    return run(_watch(arguments))


async def _watch(arguments: argparse.Namespace) -> int:
    ids = read_ids(arguments.ids, check_task_id)
    view = _make_view(arguments, ids)
    try:
        async with (
            connected(arguments) as backend,
            asyncio.timeout(arguments.timeout),
            asyncio.TaskGroup() as group,
        ):
            view.open()
            follows = [
                group.create_task(_follow(backend, id, view, arguments.since), name=f"asyncresult watch {id}")
                for id in ids
            ]
    except TimeoutError as error:
        raise CommandError(f"not all had ended after {arguments.timeout:g} seconds", Status.TIMEOUT) from error
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        view.close()
    status = max(follow.result() for follow in follows)
    return status if arguments.exit_status or status == Status.UNREADABLE else Status.SUCCESS


async def _follow(backend: Backend, id: str, view: View, since: str | None) -> Status:
    status = Status.SUCCESS
    try:
        updates = _updates(backend, id, since)
        async for meta in updates:
            view.show(id, meta, updates.last_id)
            status = status_of_state(meta.status)
    except ResultDecodeError as error:
        say(str(error))
        return Status.UNREADABLE
    return status


def _updates(backend: Backend, id: str, since: str | None) -> Updates:
    try:
        return backend.result(id).updates(since=since)
    except ValueError as error:
        raise CommandError(f"--since: {error}") from error


def _make_view(arguments: argparse.Namespace, ids: list[str]) -> View:
    if arguments.json:
        return JsonView()
    fits = len(ids) < shutil.get_terminal_size().lines
    if fits and moves_cursor(sys.stdout) and importlib.util.find_spec("rich"):
        from .live import LiveView

        return LiveView(ids)
    return LineView()


class JsonView:
    """One JSON object a line."""

    def open(self) -> None: ...

    def show(self, id: str, meta: TaskMeta, state_id: str | None) -> None:
        shown: dict[str, Any] = {"id": id, "state": meta.status, "ready": meta.ready, "result": meta.result}
        shown["at"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        if state_id is not None:
            shown["state_id"] = state_id
        write_json(shown)

    def close(self) -> None: ...


class LineView:
    """One line a state: for files, pipes, plain terminals, and more tasks than fit on a screen."""

    def open(self) -> None: ...

    def show(self, id: str, meta: TaskMeta, state_id: str | None) -> None:
        write(f"{escaped(id)} {escaped(meta.status)} {describe(meta)}".rstrip())

    def close(self) -> None: ...
