"""What a client may know about a task, as data. Nothing else of a record leaves the server."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from .._handles.handle import ancestors
from .._handles.known import has_failed
from .._progress import progress_of
from ..codec.exceptions import safe_str
from ..errors import ResultDecodeError
from ..meta import TaskMeta
from ..result import AsyncResult
from ..states import FAILURE, REVOKED, SUCCESS

__all__ = ["dump", "etag_of", "failure_before", "status_document", "status_json"]

MAX_NOTE = 500
"""Characters of a progress note."""


def status_document(
    meta: TaskMeta, name: str, *, reveal_errors: bool, links: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The public view of a record.

    Args:
        name: The task's name in URLs: its id, or a token.
        reveal_errors: Whether a failure's class and text are shown.
        links: Where to go on.

    Returns:
        ``{id, state, ready, progress?, result?, error?, stale?, date_done?, links?}``. ``progress`` is ``{current,
        total, percent, description?}``. ``result`` is there for SUCCESS only: what other states carry (a worker's pid
        and host name for STARTED, arguments of an exception) is not the client's business. ``error`` is ``{type, title,
        detail?}``. ``stale`` is true where the worker's heartbeat has stopped.
    """
    document: dict[str, Any] = {"id": name, "state": meta.status, "ready": meta.ready}
    progress = _progress(meta)
    if progress is not None:
        document["progress"] = progress
    if meta.status == SUCCESS:
        document["result"] = meta.result
    elif meta.status in (FAILURE, REVOKED):
        document["error"] = _error(meta, reveal_errors)
    if meta.stale:
        document["stale"] = True
    try:
        done = meta.date_done
    except ResultDecodeError:
        done = None
    if done is not None:
        document["date_done"] = done.isoformat()
    if links:
        document["links"] = dict(links)
    return document


def status_json(meta: TaskMeta, name: str | None = None, *, reveal_errors: bool = False) -> str:
    """What a client may know about a task, as JSON: for WebSockets, and for handlers in any framework.

    ::

        async with AsyncResult(id).updates() as updates:
            async for meta in updates:
                await websocket.send_text(status_json(meta))

    Args:
        name: The task's name in URLs; None for its id.
        reveal_errors: Whether a failure's class and text are shown. Its traceback never is.

    Raises:
        ResultDecodeError: The result is nested too deeply.
    """
    document = status_document(meta, meta.task_id if name is None else name, reveal_errors=reveal_errors)
    return dump(document).decode()


def failure_before(handle: AsyncResult[Any]) -> TaskMeta | None:
    """The record of the task before this one in a chain that is known to have failed: it is this one's end, too."""
    return next((task.snapshot for task in ancestors(handle) if has_failed(task)), None)


def _progress(meta: TaskMeta) -> dict[str, Any] | None:
    reported = progress_of(meta)
    if reported is None:
        return None
    current, total, note = reported
    progress: dict[str, Any] = {"current": current, "total": total, "percent": round(100 * current / total, 1)}
    if note:
        progress["description"] = note[:MAX_NOTE]
    return progress


def _error(meta: TaskMeta, reveal: bool) -> dict[str, Any]:
    title = "The task was revoked" if meta.status == REVOKED else "The task failed"
    error: dict[str, Any] = {"type": "about:blank", "title": title}
    stored = meta.result
    if reveal and isinstance(stored, Mapping):
        error["type"] = safe_str(stored.get("exc_type"))
        arguments = stored.get("exc_message")
        error["detail"] = (
            ", ".join(map(safe_str, arguments)) if isinstance(arguments, (list, tuple)) else safe_str(arguments)
        )
    return error


def dump(document: Any) -> bytes:
    """The document as JSON. What JSON has no form for, NaN and keys that are no text too, is written as text.

    Raises:
        ResultDecodeError: It is nested too deeply.
    """
    try:
        try:
            text = _dumped(document)
        except (ValueError, TypeError):
            text = _dumped(_plain(document))
    except RecursionError:
        raise ResultDecodeError("the result is nested too deeply to be shown") from None
    return text.encode("utf-8", "backslashreplace")


def _dumped(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, default=safe_str, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {safe_str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def etag_of(body: bytes) -> str:
    """A strong entity tag: the same bytes, the same tag."""
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
