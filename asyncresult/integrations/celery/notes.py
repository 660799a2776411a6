"""Notes that tasks of an app are sent, for ``connect(app, register=True)`` (:mod:`..._storage.notes`).

They are made of each message of the app's: also of the tasks that workers will send for it, later in a chain. Where
asyncio connections send the message, they take the notes along; else the note is written just before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from kombu.exceptions import OperationalError

from ..._portal import start
from ..._storage.notes import Note, note_entry, put_notes
from ...backend import Backend
from ...errors import BackendClosed, BackendError
from .messages import composing

__all__ = ["in_one_step", "note_sends", "put", "registering"]

#: What is no task of its own.
_CANVASES = ("celery.group", "celery.chord", "celery.chain")


def registering(app: Any) -> Backend | None:
    """The app's backend, if it is to note what is sent and is open."""
    backend: Backend | None = vars(app).get("_asyncresult_backend")
    return backend if backend is not None and backend.registers and not backend.closed else None


def note_sends(app: Any) -> None:
    """Have each message of the app's be noted from now on, while its backend registers."""
    if "_asyncresult_notes" in vars(app):
        return
    app._asyncresult_notes = True
    send = app.amqp.send_task_message

    def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
        backend = registering(app)
        if backend is None:
            return send(producer, name, message, **options)
        notes = list(_notes_of(message))
        composer = composing.get()
        if composer is None or producer is not composer.producer:
            _wait(backend, notes)
            return send(producer, name, message, **options)
        result = send(producer, name, message, **options)
        composer.producer.notes += notes
        return result

    app.amqp.send_task_message = send_task_message


def _wait(backend: Backend, notes: list[Note]) -> None:
    """Write notes from blocking code. Celery's own send blocks as well, also on an event loop."""
    try:
        start(put_notes, backend, notes).result()
    except (BackendError, BackendClosed) as error:
        raise _not_noted(error) from error


async def put(backend: Backend, notes: Iterable[Note]) -> None:
    """Write notes.

    Raises:
        kombu.exceptions.OperationalError: They cannot be written.
    """
    try:
        await put_notes(backend, notes)
    except (BackendError, BackendClosed) as error:
        raise _not_noted(error) from error


def _not_noted(error: Exception) -> OperationalError:
    return OperationalError(f"not sent, as it cannot be noted (register=True): {error}")


def in_one_step(backend: Backend, notes: Iterable[Note], commands: Iterable[Any]) -> list[Any]:
    """The commands that write notes and do ``commands``: all, or none where the server refuses one."""
    written: list[Any] = []
    for note in notes:
        key, payload, lifetime = note_entry(backend, note)
        written.append(("SET", key, payload, *(("EX", int(lifetime)) if lifetime is not None else ())))
    return [("MULTI",), *written, *commands, ("EXEC",)]


def _notes_of(message: Any) -> Iterator[Note]:
    """Notes of the task in a message, and of those that are sent when it ends.

    Source: celery/app/amqp.py (5.5 to 5.7), as_task_v2 and as_task_v1.
    """
    body = message.body
    fields = message.headers if message.headers.get("id") else body  # protocol 1 has them in the body
    delay = _delay(fields.get("eta"))
    yield Note(fields["id"], fields["task"], delay)
    embedded = body if isinstance(body, dict) else body[2]
    followers = [*(embedded.get("chain") or ()), embedded.get("chord"), *(embedded.get("callbacks") or ())]
    for follower in followers:
        yield from _notes_in(follower, delay)


def _notes_in(signature: Any, delay: float) -> Iterator[Note]:
    """Notes of the tasks in a signature that have ids already."""
    if not isinstance(signature, dict):
        return
    options, kwargs = signature.get("options") or {}, signature.get("kwargs") or {}
    name = signature.get("task")
    if name not in _CANVASES:
        if task_id := options.get("task_id"):
            yield Note(task_id, name, delay)
        inner: list[Any] = []
    else:
        header = kwargs.get("header") or ()
        inner = [*(kwargs.get("tasks") or ()), kwargs.get("body")]
        inner += [header] if isinstance(header, dict) else header
    for follower in (*inner, options.get("chord"), *_listed(options.get("link"))):
        yield from _notes_in(follower, delay)


def _listed(links: Any) -> Iterable[Any]:
    return links if isinstance(links, (list, tuple)) else (links,)


def _delay(eta: Any) -> float:
    """Seconds until a task may run."""
    if not eta:
        return 0.0
    at = datetime.fromisoformat(eta) if isinstance(eta, str) else eta
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())
