"""How a notebook shows what a handle has learned: ``_repr_html_``. Everything that comes from a record is escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard

from ..codec.exceptions import safe_repr, safe_str
from ..meta import TaskMeta
from ..states import READY_STATES

__all__ = ["html_of"]

#: Handles of a set that are shown.
MOST_ROWS = 50
#: Characters of a value.
MOST_TEXT = 200


class Known(Protocol):
    """A handle."""

    @property
    def id(self) -> str: ...
    @property
    def snapshot(self) -> TaskMeta | None: ...
    @property
    def exception(self) -> Exception | None: ...


def html_of(handles: Sequence[Known], *, title: str) -> str:
    """A table of what is known about these handles, one a row. Reads memory only.

    Args:
        title: For a set: the heading, with how many are done.
    """
    rows = "".join(_row(handle) for handle in handles[:MOST_ROWS])
    if len(handles) > MOST_ROWS:
        rows += f"<tr><td colspan=3>and {len(handles) - MOST_ROWS} more</td></tr>"
    table = f'<table class="asyncresult"><tbody>{rows}</tbody></table>'
    if not title:
        return table
    done = sum(_state(handle) in READY_STATES for handle in handles)
    bar = f'<progress max="{len(handles) or 1}" value="{done}"></progress>'
    return f"<div>{html.escape(title)}: {bar} {done} of {len(handles)} done</div>{table}"


def _row(handle: Known) -> str:
    return "".join(("<tr>", f"<td><code>{html.escape(handle.id)}</code></td>", _cells(handle), "</tr>"))


def _cells(handle: Known) -> str:
    meta = handle.snapshot
    state = f"<td>{html.escape(_state(handle)[:MOST_TEXT]) or '?'}</td>"
    if meta is None:
        return f"{state}<td></td>"
    if not meta.ready:
        return f"{state}<td>{_progress(meta.result)}</td>"
    shown = meta.result if meta.successful else handle.exception
    return f"{state}<td><code>{html.escape(safe_repr(shown)[:MOST_TEXT])}</code></td>"


def _state(handle: Known) -> str:
    meta = handle.snapshot
    return meta.status if meta is not None else "not known yet"


def _progress(said: Any) -> str:
    """A bar for ``{"current": …, "total": …}``, and what else a task has said."""
    if not isinstance(said, dict):
        return ""
    current, total = said.get("current"), said.get("total")
    bar = ""
    if _is_number(current) and _is_number(total) and total > 0:
        bar = f'<progress max="{total}" value="{current}"></progress> {current} of {total}'
    rest = {name: value for name, value in said.items() if name not in ("current", "total", "pid", "hostname")}
    words = ", ".join(f"{safe_str(name)}: {safe_str(value)}" for name, value in rest.items())
    return f"{bar} {html.escape(words[:MOST_TEXT])}".strip()


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value and abs(value) < 1e15
