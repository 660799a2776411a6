"""``ls``: what is in the store."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ..backend import Backend
from ..errors import BackendError, BackendPermissionError, BackendUnavailable, ResultDecodeError
from .output import coloured, escaped, state_text, write, write_json
from .source import connected, run
from .status import CommandError, Status

__all__ = ["ls"]

#: Records read at a time while looking for those in one state, and the most that are looked at.
BATCH, MOST_LOOKED_AT = 500, 100_000


def ls(arguments: argparse.Namespace) -> int:
    """Print ids and states of stored records."""
    return run(_ls(arguments))


async def _ls(arguments: argparse.Namespace) -> int:
    colours = coloured(sys.stdout)
    shown = 0
    async with connected(arguments) as backend, _refusing():
        batch: list[str] = []
        most = MOST_LOOKED_AT if arguments.state else arguments.limit
        async for id in backend.task_ids(limit=most):
            batch.append(id)
            if len(batch) == min(BATCH, arguments.limit):
                shown += await _show(backend, batch, arguments, arguments.limit - shown, colours)
                batch = []
                if shown >= arguments.limit:
                    return Status.SUCCESS
        await _show(backend, batch, arguments, arguments.limit - shown, colours)
    return Status.SUCCESS


@asynccontextmanager
async def _refusing() -> AsyncGenerator[None]:
    """A store that cannot be listed answers well, so that is no reason to say that it cannot be reached."""
    try:
        yield
    except BackendError as error:
        if isinstance(error, BackendUnavailable | BackendPermissionError):
            raise
        raise CommandError(str(error)) from error


async def _show(backend: Backend, ids: list[str], arguments: argparse.Namespace, most: int, colours: bool) -> int:
    """Print those that are wanted, at most ``most``; how many there were."""
    shown = 0
    for id, state, name in await _states(backend, ids):
        if shown == most:
            break
        if arguments.state not in (None, state):
            continue
        shown += 1
        if arguments.json:
            write_json({"id": id, "state": state, "name": name})
        else:
            write(f"{escaped(id)} {state_text(state, colours=colours)}{f' {escaped(name)}' if name else ''}")
    return shown


async def _states(backend: Backend, ids: list[str]) -> list[tuple[str, str, str | None]]:
    """Id, state and name of each; a record that cannot be read hides no other."""
    try:
        return [(id, meta.status, meta.name) for id, meta in zip(ids, await backend.get_many(ids), strict=True)]
    except ResultDecodeError:
        found: list[tuple[str, str, str | None]] = []
        for id in ids:
            try:
                meta = await backend.get_meta(id)
                found.append((id, meta.status, meta.name))
            except ResultDecodeError:
                found.append((id, "unreadable", None))
        return found
