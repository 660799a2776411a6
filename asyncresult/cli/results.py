"""``get``, ``wait``, ``info``, ``forget`` and ``revoke``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from .. import AsyncResult, ResultSet
from .._checks import check_task_id
from ..backend import Backend
from ..control import Reply
from ..errors import ResultDecodeError
from ..meta import TaskMeta
from ..states import PENDING, PROPAGATE_STATES, READY_STATES
from .output import (
    coloured,
    describe,
    escaped,
    fields_of,
    say,
    shortened,
    state_text,
    value_text,
    write,
    write_json,
    write_value,
)
from .source import connected, read_ids, run
from .status import CommandError, Status, status_of_state

__all__ = ["forget", "get", "info", "revoke", "wait"]

NAMED_IN_ERROR = 3


def get(arguments: argparse.Namespace) -> int:
    """Print the value of one task, waiting for it."""
    return run(_get(arguments))


async def _get(arguments: argparse.Namespace) -> int:
    (id,) = read_ids([arguments.id], check_task_id)
    async with connected(arguments) as backend:
        try:
            meta = await _record(backend, id, arguments)
        except ResultDecodeError:
            if arguments.raw:
                await _write_raw(backend, id)
            raise
        if arguments.raw:
            await _write_raw(backend, id)
        elif arguments.json:
            write_json(fields_of(meta))
        elif arguments.field:
            write_value(_field(meta, arguments.field))
        elif meta.status in PROPAGATE_STATES:
            say(f"{shortened(id)} {meta.status}: {describe(meta)}")
        else:
            write_value(meta.result)
        if arguments.traceback and meta.traceback:
            for line in meta.traceback.rstrip().splitlines():
                print(escaped(line), file=sys.stderr)
        return status_of_state(meta.status)


async def _record(backend: Backend, id: str, arguments: argparse.Namespace) -> TaskMeta:
    meta = await backend.get_meta(id)
    if meta.status == PENDING and not await backend.result(id).known():
        if arguments.no_wait or backend.registers:
            raise CommandError(f"nothing is stored for {shortened(id)}", Status.UNKNOWN)
        if sys.stderr.isatty():
            say(f"nothing is stored for {shortened(id)} yet; waiting (Ctrl-C ends)")
    if arguments.no_wait:
        return meta
    return await backend.result(id).until(*READY_STATES, timeout=arguments.timeout)


async def _write_raw(backend: Backend, id: str) -> None:
    sys.stdout.buffer.write(await backend.get_raw(id) or b"")
    sys.stdout.flush()


def _field(meta: TaskMeta, name: str) -> Any:
    fields = {**meta.extra, **meta.to_dict()}
    if name not in fields:
        raise CommandError(f"a record has no field {name!r}; it has {', '.join(fields)}")
    return fields[name]


def wait(arguments: argparse.Namespace) -> int:
    """Wait for tasks, and print each that has ended."""
    return run(_wait(arguments))


async def _wait(arguments: argparse.Namespace) -> int:
    ids = read_ids(arguments.ids, check_task_id)
    wanted = 1 if arguments.any else min(arguments.count or len(ids), len(ids))
    statuses = [Status.SUCCESS]
    try:
        async with connected(arguments) as backend:
            async with asyncio.timeout(arguments.timeout):
                async with aclosing(_as_they_come(backend, ids, arguments.state)) as ended:
                    async for id, outcome in ended:
                        statuses.append(_ended(id, outcome, arguments.quiet))
                        if len(statuses) > wanted:
                            break
    except TimeoutError as error:
        missing = wanted - len(statuses) + 1
        raise CommandError(
            f"{missing} of {wanted} had not ended after {arguments.timeout:g} seconds", Status.TIMEOUT
        ) from error
    return max(statuses)


async def _as_they_come(
    backend: Backend, ids: list[str], state: str | None
) -> AsyncGenerator[tuple[str, TaskMeta | ResultDecodeError]]:
    """Pairs of id and record, or error, as the tasks end or reach ``state``."""
    if state is None:
        async with ResultSet([backend.result(id) for id in ids]).as_completed() as done:
            async for handle in done:
                yield handle.id, await _settled(handle)
        return
    waits = {
        asyncio.create_task(_settled_until(backend.result(id), state), name=f"asyncresult wait {id}") for id in ids
    }
    try:
        for next_one in asyncio.as_completed(waits):
            yield await next_one
    finally:
        for waiting in waits:
            waiting.cancel()


async def _settled(handle: AsyncResult[Any]) -> TaskMeta | ResultDecodeError:
    try:
        return await handle.meta()
    except ResultDecodeError as error:
        return error


async def _settled_until(handle: AsyncResult[Any], state: str) -> tuple[str, TaskMeta | ResultDecodeError]:
    try:
        return handle.id, await handle.until(state)
    except ResultDecodeError as error:
        return handle.id, error


def _ended(id: str, outcome: TaskMeta | ResultDecodeError, quiet: bool) -> Status:
    if isinstance(outcome, ResultDecodeError):
        say(str(outcome))
        return Status.UNREADABLE
    if not quiet:
        write(f"{escaped(id)} {escaped(outcome.status)}")
    return status_of_state(outcome.status)


def info(arguments: argparse.Namespace) -> int:
    """Print all that is known about tasks."""
    return run(_info(arguments))


async def _info(arguments: argparse.Namespace) -> int:
    ids = read_ids(arguments.ids, check_task_id)
    statuses = [Status.SUCCESS]
    async with connected(arguments) as backend:
        for id in ids:
            try:
                known = await _known(backend, id)
            except ResultDecodeError as error:
                say(str(error))
                statuses.append(Status.UNREADABLE)
                continue
            if known is None:
                say(f"nothing is stored for {shortened(id)}")
                statuses.append(Status.UNKNOWN)
            elif arguments.json:
                write_json(known)
            else:
                _print_fields(known)
    return max(statuses)


async def _known(backend: Backend, id: str) -> dict[str, Any] | None:
    raw, sent = await backend.get_raw(id), await backend.result(id).sent()
    if raw is None and sent is None:
        return None
    fields = fields_of(await backend.get_meta(id))
    if sent is not None:
        fields.update(name=fields.get("name") or sent.name, sent=sent.time.isoformat())
    key = backend.task_key(id).decode(errors="backslashreplace")
    return {**fields, "key": key, "channel": key, "size": len(raw or b""), "ttl": await backend.get_lifetime(id)}


def _print_fields(fields: dict[str, Any]) -> None:
    colours = coloured(sys.stdout)
    width = max(map(len, fields))
    for name, value in fields.items():
        if name == "traceback":
            text = "\n" + "\n".join(f"    {escaped(line)}" for line in str(value).rstrip().splitlines())
        elif name == "status":
            text = state_text(str(value), colours=colours)
        else:
            text = escaped(value_text(value))
        write(f"{name:<{width}}  {text}")
    write("")


def forget(arguments: argparse.Namespace) -> int:
    """Delete records, after a confirmation."""
    return run(_forget(arguments))


async def _forget(arguments: argparse.Namespace) -> int:
    ids = read_ids(arguments.ids, check_task_id)
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise CommandError("forget asks for confirmation, and stdin is not a terminal: give --yes")
        print(f"Delete the records of {_some(ids)}? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise CommandError("nothing was deleted", Status.INTERRUPTED)
    async with connected(arguments) as backend:
        deleted = await backend.forget(*ids)
    say(f"{deleted} of {len(ids)} deleted")
    return Status.SUCCESS if deleted == len(ids) else Status.UNKNOWN


def _some(ids: list[str]) -> str:
    if len(ids) <= NAMED_IN_ERROR:
        return ", ".join(map(shortened, ids))
    return f"{', '.join(map(shortened, ids[:NAMED_IN_ERROR]))} and {len(ids) - NAMED_IN_ERROR} more"


def revoke(arguments: argparse.Namespace) -> int:
    """Revoke tasks; with ``--wait`` print what the workers reply."""
    return run(_revoke(arguments))


async def _revoke(arguments: argparse.Namespace) -> int:
    from .. import control

    ids = read_ids(arguments.ids, check_task_id)
    async with connected(arguments, to_read=False) as backend:
        replies: list[Reply] = await control.revoke(
            backend,
            ids,
            terminate=arguments.terminate,
            signal=arguments.signal,
            wait=arguments.wait,
            timeout=arguments.timeout,
        )
    if arguments.wait and not replies:
        say("no worker has replied")
    for reply in replies:
        write(escaped(f"{reply.worker} {'ok' if reply.ok else 'refused'}{f': {reply.detail}' if reply.detail else ''}"))
    return Status.SUCCESS if all(reply.ok for reply in replies) else Status.FAILED
