"""Records as text for people and as JSON for programs."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from ..codec.exceptions import safe_str
from ..meta import TaskMeta
from ..states import EXCEPTION_STATES, FAILURE, PENDING, RETRY, REVOKED, SUCCESS

__all__ = [
    "coloured",
    "describe",
    "escaped",
    "fields_of",
    "moves_cursor",
    "say",
    "shortened",
    "state_text",
    "to_json",
    "value_text",
    "write",
    "write_json",
    "write_value",
]

_COLOURS = {SUCCESS: "32", FAILURE: "31", REVOKED: "35", RETRY: "33", PENDING: "2"}


#: What a terminal obeys: but for line breaks and tabs all control characters, and those that turn the order of letters.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

#: Characters of an id in a message: those of Celery have 36, and nobody else's fill a screen.
MOST_OF_AN_ID = 100


def write(text: str) -> None:
    """A line of data."""
    print(text, flush=True)


def write_json(value: Any) -> None:
    write(to_json(value))


def say(text: str) -> None:
    """A line for the person at the terminal."""
    print(f"asyncresult: {escaped(text)}", file=sys.stderr, flush=True)


def to_json(value: Any) -> str:
    """One line of JSON. What JSON has no form for, such as a date, NaN or infinity, is written as its text."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=_plain, allow_nan=False)
    except ValueError:  # there is such a number somewhere
        text = json.dumps(_without_nan(value), ensure_ascii=False, default=_plain, allow_nan=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)  # inside of strings, all of them


def shortened(id: str) -> str:
    """An id as a message shows it."""
    return escaped(id if len(id) <= MOST_OF_AN_ID else f"{id[: MOST_OF_AN_ID - 1]}…")


def escaped(text: str) -> str:
    """On one line, and harmless to a terminal, whoever wrote it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _without_nan(value: Any) -> Any:
    """The same with "NaN", "Infinity" and "-Infinity" in place of numbers that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {_without_nan(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_without_nan(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    return safe_str(value)


def write_value(value: Any) -> None:
    """A value, as it is; on a terminal without what would control that."""
    text = value_text(value)
    write(_CONTROLS.sub(lambda found: escaped(found[0]), text) if sys.stdout.isatty() else text)


def value_text(value: Any) -> str:
    """A value as a person or a script wants it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else to_json(value)


def fields_of(meta: TaskMeta) -> dict[str, Any]:
    """The record as plain data; what was not recorded is left out."""
    return {name: value for name, value in meta.to_dict().items() if name == "result" or value not in (None, {})}


def describe(meta: TaskMeta) -> str:
    """What a state says, on one line: the value, the failure or the progress."""
    result = meta.result
    if meta.status in EXCEPTION_STATES and isinstance(result, Mapping):
        arguments = result.get("exc_message")
        if isinstance(arguments, (list, tuple)):
            arguments = ", ".join(map(safe_str, arguments))
        name = safe_str(result.get("exc_type"))
        text = f"{name}: {safe_str(arguments)}" if arguments else name
    elif result is None:
        return ""
    else:
        text = value_text(result)
    return escaped(text)


def coloured(stream: TextIO) -> bool:
    """Whether colours belong on a stream. See https://no-color.org."""
    return moves_cursor(stream) and not os.environ.get("NO_COLOR")


def moves_cursor(stream: TextIO) -> bool:
    """Whether a stream is a terminal that knows escape sequences."""
    return stream.isatty() and os.environ.get("TERM") not in (None, "", "dumb")


def state_text(state: str, *, colours: bool) -> str:
    """The name of a state, in its colour."""
    state, colour = escaped(state), _COLOURS.get(state, "36")
    return f"\x1b[{colour}m{state}\x1b[0m" if colours else state
