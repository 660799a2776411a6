"""``watch``: the states of tasks as they come."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from .._checks import check_task_id
from ..backend import Backend
from ..codec.exceptions import printable
from ..errors import ResultDecodeError
from ..meta import TaskMeta
from ..states import PENDING
from .output import coloured, describe, say, state_text, write, write_json
from .source import connected, read_ids, run
from .status import CommandError, Status, status_of_state

__all__ = ["progress_of", "watch"]

BAR_CELLS = 24


class View(Protocol):
    """How states are shown."""

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
            follows = [group.create_task(_follow(backend, id, view, arguments.since)) for id in ids]
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
        updates = backend.result(id).updates(since=since)
        async for meta in updates:
            view.show(id, meta, updates.last_id)
            status = status_of_state(meta.status)
    except ResultDecodeError as error:
        say(str(error))
        return Status.UNREADABLE
    return status


def _make_view(arguments: argparse.Namespace, ids: list[str]) -> View:
    if arguments.json:
        return JsonView()
    height = shutil.get_terminal_size().lines
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and len(ids) < height:
        return LiveView(ids)
    return LineView()


class JsonView:
    """One JSON object a line."""

    def show(self, id: str, meta: TaskMeta, state_id: str | None) -> None:
        shown: dict[str, Any] = {"id": id, "state": meta.status, "ready": meta.ready, "result": meta.result}
        shown["at"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        if state_id is not None:
            shown["state_id"] = state_id
        write_json(shown)

    def close(self) -> None: ...


class LineView:
    """One line a state: for files, pipes, plain terminals, and more tasks than fit on a screen."""

    def show(self, id: str, meta: TaskMeta, state_id: str | None) -> None:
        write(f"{printable(id)} {printable(meta.status)} {describe(meta)}".rstrip())

    def close(self) -> None: ...


class LiveView:
    """A line a task, drawn again at each change. Needs nothing but a terminal that can move the cursor up."""

    def __init__(self, ids: list[str]) -> None:
        self._lines = {id: f"{_short(id)}  {PENDING}" for id in ids}
        self._colours = coloured(sys.stdout)
        self._drawn = False

    def show(self, id: str, meta: TaskMeta, state_id: str | None) -> None:
        self._lines[id] = self._line(id, meta)
        self._draw()

    def _line(self, id: str, meta: TaskMeta) -> str:
        state = state_text(f"{meta.status:<8}", colours=self._colours)
        progress = None if meta.ready else progress_of(meta)
        if progress is None:
            room = shutil.get_terminal_size().columns - len(_short(id)) - 14
            return f"{_short(id)}  {state}  {describe(meta)[: max(room, 0)]}"
        current, total, note = progress
        return f"{_short(id)}  {state}  {bar(current, total)} {current:g}/{total:g} {note}".rstrip()

    def _draw(self) -> None:
        up = f"\x1b[{len(self._lines)}A" if self._drawn else ""
        sys.stdout.write(up + "".join(f"\r\x1b[2K{line}\n" for line in self._lines.values()))
        sys.stdout.flush()
        self._drawn = True

    def close(self) -> None: ...


def progress_of(meta: TaskMeta) -> tuple[float, float, str] | None:
    """Current, total and note of a state that reports progress, as ``progress()`` and most Celery tasks write it."""
    told = meta.result
    if not isinstance(told, Mapping):
        return None
    current, total = told.get("current"), told.get("total")
    if not isinstance(current, (int, float)) or not isinstance(total, (int, float)) or not 0 < total < float("inf"):
        return None
    if not 0 <= current <= total:
        return None
    note = told.get("note") or told.get("description") or ""
    return current, total, note if isinstance(note, str) and note.isprintable() else ""


def bar(current: float, total: float) -> str:
    """A progress bar, in ASCII where the terminal's encoding has nothing better."""
    full, empty = ("█", "░") if (sys.stdout.encoding or "").lower().startswith("utf") else ("#", ".")
    done = int(BAR_CELLS * current / total)
    return full * done + empty * (BAR_CELLS - done)


def _short(id: str) -> str:
    return id if len(id) <= 36 else f"{id[:35]}…"
