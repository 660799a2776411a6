"""Records as text for people and as JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from ..codec.exceptions import printable
from ..meta import TaskMeta, stored_fields
from ..states import EXCEPTION_STATES, FAILURE, PENDING, RETRY, REVOKED, SUCCESS

__all__ = ["coloured", "describe", "fields_of", "say", "to_json", "value_text", "write", "write_json"]

_COLOURS = {SUCCESS: "32", FAILURE: "31", REVOKED: "35", RETRY: "33", PENDING: "2"}


def write(text: str) -> None:
    """A line of data."""
    print(text, flush=True)


def write_json(value: Any) -> None:
    write(to_json(value))


def say(text: str) -> None:
    """A line for the person at the terminal."""
    print(f"asyncresult: {text}", file=sys.stderr, flush=True)


def to_json(value: Any) -> str:
    """One line of JSON. What JSON has no form for, such as a date, is written as its text."""
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    return str(value)


def value_text(value: Any) -> str:
    """A value as a person or a script wants it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else to_json(value)


def fields_of(meta: TaskMeta) -> dict[str, Any]:
    """The record as plain data; what was not recorded is left out."""
    return {name: value for name, value in stored_fields(meta).items() if value is not None or name == "result"}


def describe(meta: TaskMeta) -> str:
    """What a state says, on one line: the value, the failure or the progress."""
    result = meta.result
    if meta.status in EXCEPTION_STATES and isinstance(result, Mapping):
        arguments = result.get("exc_message")
        if isinstance(arguments, (list, tuple)):
            arguments = ", ".join(str(argument) for argument in arguments)
        text = f"{result.get('exc_type')}: {arguments}" if arguments else str(result.get("exc_type"))
    elif result is None:
        return ""
    else:
        text = value_text(result)
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def coloured(stream: TextIO) -> bool:
    """Whether colours belong on a stream. See https://no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def state_text(state: str, *, colours: bool) -> str:
    """The name of a state, in its colour."""
    state, colour = printable(state), _COLOURS.get(state, "36")
    return f"\x1b[{colour}m{state}\x1b[0m" if colours else state
