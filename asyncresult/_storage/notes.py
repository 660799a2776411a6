"""Notes that tasks were sent, by which an id that nobody knows differs from that of a task that is pending.

A note lies under a key of its own beside the record: what a worker stores cannot erase it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from ..codec.exceptions import error_text
from ..errors import BackendError, ResultDecodeError
from .keys import SENT
from .store import Store, engine_of, lifetime_of

__all__ = ["Note", "Sent", "is_known", "note_entry", "put_notes", "read_note"]

#: In place of a state: a note is kept as long as a record.
_SENT_STATE = "SENT"


class Sent(msgspec.Struct, frozen=True):
    """When and as what a task was sent.

    Attributes:
        name: The task's name, where its sender gave one.
        time: By the clock of the sender, timezone-aware.
    """

    name: str | None
    time: datetime


class Note(msgspec.Struct, frozen=True):
    """What is to be noted.

    Attributes:
        name: The task's name.
        delay: Seconds until the task may run: the note is kept so much longer.
        expires: Seconds to keep it from then on; None is as long as records are kept.
    """

    task_id: str
    name: str | None = None
    delay: float = 0.0
    expires: float | None = None


_decoder = msgspec.json.Decoder(Sent)


def note_entry(store: Store, note: Note) -> tuple[bytes, bytes, float | None]:
    """Key, value and lifetime of a note that is written now."""
    lifetime = lifetime_of(store, _SENT_STATE, note.expires)
    payload = msgspec.json.encode(Sent(note.name, datetime.now(UTC)))
    return store.key_beside(note.task_id, SENT), payload, None if lifetime is None else lifetime + note.delay


async def put_notes(store: Store, notes: Iterable[Note]) -> None:
    """Write notes, all in one pipeline.

    Raises: as :meth:`.Store.put_beside`; BackendError also where nothing is kept beside records.
    """
    if not store.driver.keeps_notes:
        raise BackendError(f"{store} keeps records only: notes need Redis, Valkey or memory://")
    engine = engine_of(store)
    await asyncio.gather(*(engine.put(*note_entry(store, note)) for note in notes))


async def read_note(store: Store, task_id: str) -> Sent | None:
    """The note of a task, if there is one. Raises: as :meth:`.Store.get_meta`."""
    payload = await engine_of(store).read(store.key_beside(task_id, SENT))
    if not payload:
        return None
    try:
        return _decoder.decode(payload)
    except Exception as error:  # also RecursionError, of brackets
        problem = error_text(error)
    raise ResultDecodeError(
        f"the note that task {task_id!r} was sent cannot be read: {problem}", task_id=task_id, raw=payload
    )


async def is_known(store: Store, task_id: str) -> bool:
    """Whether there is a record of the task, or a note that it was sent. Raises: as :meth:`.Store.get_raw`."""
    engine = engine_of(store)
    keys = store.task_key(task_id), store.key_beside(task_id, SENT)
    return any(await asyncio.gather(*map(engine.exists, keys)))
