"""Events in the forms that clients want: JSON, HTML fragments for htmx 4 and 2, and Datastar's.

Source: the HTML standard, section 9.2.5 (parsing an event stream): a line ends with CR, LF or both; a value's own line
breaks become several ``data`` lines; NUL in an id makes the id be ignored.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from .documents import dump

__all__ = ["FORMS", "comment", "end_event", "sse_event"]


def sse_event(data: str, *, name: str = "", id: str = "") -> bytes:
    """One server-sent event, for streams of frameworks that have no form for them.

    Args:
        data: Its text; may have several lines.
        name: ``progress``, ``done`` …; empty for an unnamed one.
        id: What the client sends as ``Last-Event-ID`` when it comes back. Line breaks are left out of it and the name.
    """
    lines = [f"event: {_one_line(name)}"] if name else []
    if id:
        lines.append(f"id: {_one_line(id)}")
    # Only these three end a line for the parser; str.splitlines() knows more.
    lines += [f"data: {line}" for line in data.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return ("\n".join(lines) + "\n\n").encode("utf-8", "backslashreplace")


def comment(text: str = "ping") -> bytes:
    """A line that clients pass over."""
    return f": {_one_line(text)}\n\n".encode()


def _one_line(text: str) -> str:
    return text.translate({0: None, 10: None, 13: None})


def _json(document: dict[str, Any], id: str) -> bytes:
    return sse_event(dump(document).decode(), name="done" if document["ready"] else "progress", id=id)


def _htmx4(document: dict[str, Any], id: str) -> bytes:
    """htmx 4 swaps unnamed events, and takes named ones as DOM events."""
    return sse_event(fragment(document), id=id)


def _htmx2(document: dict[str, Any], id: str) -> bytes:
    """htmx 2 swaps named events."""
    return sse_event(fragment(document), name="progress", id=id)


def _datastar(document: dict[str, Any], id: str) -> bytes:
    lines = fragment(document).splitlines()
    return sse_event("\n".join(f"elements {line}" for line in lines), name="datastar-patch-elements", id=id)


Form = Callable[[dict[str, Any], str], bytes]
FORMS: dict[str, Form] = {"json": _json, "html": _htmx4, "htmx2": _htmx2, "datastar": _datastar}


def end_event(form: str, id: str) -> bytes:
    """After the last state. The id has a client that comes back all the same be sent away for good."""
    if form == "json":
        return sse_event("{}", name="end", id=id)
    return sse_event("", name="done", id=id) if form != "datastar" else comment("end")


def fragment(document: dict[str, Any]) -> str:
    """A task's state as HTML. ``id`` and the attributes are for styles and scripts of the page's own."""
    state = html.escape(str(document["state"]), quote=True)
    parts = [f'<div class="asyncresult-task" id="task-{_html_id(document["id"])}" data-state="{state}">']
    progress = document.get("progress")
    if progress:
        note = html.escape(str(progress.get("description", "")))
        parts.append(
            f'<progress max="{progress["total"]}" value="{progress["current"]}" aria-label="Progress">'
            f"{progress['percent']} %</progress><span>{note}</span>"
        )
    parts.append(f'<p role="status">{_words(document)}</p></div>')
    return "\n".join(parts)


def _words(document: dict[str, Any]) -> str:
    if "error" in document:
        error = document["error"]
        return html.escape(f"{error['title']}: {error['detail']}" if "detail" in error else error["title"])
    if "result" in document:
        result = document["result"]
        return html.escape(result if isinstance(result, str) else dump(result).decode())
    return html.escape(str(document["state"]))


def _html_id(id: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in id)
