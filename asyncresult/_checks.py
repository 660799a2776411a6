"""Checks of arguments that several modules take."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable
from typing import Literal, TypeAlias

__all__ = [
    "LOOK_ONCE_TIMEOUT",
    "DetachOrRevoke",
    "ReturnWhen",
    "check_callable",
    "check_choice",
    "check_count",
    "check_flag",
    "check_lifetime",
    "check_no_url",
    "check_seconds",
    "check_several",
    "check_task_id",
    "check_text",
    "check_timeout",
    "looks_once",
]

#: What is to become of a task when the wait for it ends early.
DetachOrRevoke: TypeAlias = Literal["detach", "revoke"]
#: asyncio's constants for ``wait()``.
ReturnWhen: TypeAlias = Literal["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"]

#: Seconds that a server, a timer and a date can still hold: three hundred years.
MAX_SECONDS = 1e10

#: Seconds that a look with ``timeout=0`` may take: one round trip, even a slow one, but never a hang.
LOOK_ONCE_TIMEOUT = 1.0


def check_task_id(id: object) -> str:
    """The id as text.

    Raises:
        TypeError: Neither text nor a UUID.
        ValueError: Empty, or with characters that cannot be part of a key.
    """
    if isinstance(id, str):
        if id and id.isprintable():
            return id
    elif isinstance(id, uuid.UUID):
        return str(id)
    elif id is not None:
        hint = "; give its .id" if isinstance(getattr(id, "id", None), str) else ""
        raise TypeError(f"a task id is text or a UUID, not {type(id).__name__}: {id!r:.60}{hint}")
    if not id:
        raise ValueError(f"a task id must not be empty: {id!r}")
    try:
        id.encode()
    except UnicodeEncodeError:
        raise ValueError(f"a task id must be encodable as UTF-8: {id!r:.60}") from None
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in id):
        raise ValueError(f"a task id must not hold control characters: {id!r:.60}")
    return id


def looks_once(timeout: float | None) -> bool:
    """Whether a wait with this budget only looks at what is stored now.

    Raises:
        ValueError: As :func:`check_timeout`.
    """
    if timeout is None:
        return False
    check_timeout(timeout)
    return timeout <= 0


def check_no_url(backend: object) -> None:
    """Raise if a URL is given in place of a backend.

    Raises:
        TypeError: It is.
    """
    if isinstance(backend, str):
        raise TypeError("backend= takes what connect() gives, not a URL: backend=connect(…)")


def check_timeout(timeout: float | None) -> None:
    """Raise unless ``timeout`` is a budget: None or a number, which may be negative or infinite.

    Raises:
        TypeError: It is neither.
        ValueError: It is NaN, of which no comparison is true, so no wait would ever end; or no clock can hold it.
    """
    try:
        is_nan = timeout is not None and math.isnan(timeout)
    except OverflowError:
        raise ValueError(f"timeout must not be {_short(timeout)}") from None
    except TypeError:
        raise TypeError(f"timeout must be None or a number of seconds, not {_short(timeout)}") from None
    if is_nan:
        raise ValueError("timeout must not be NaN")


def check_seconds(name: str, seconds: object, *, least: float | None = None) -> None:
    """Raise unless ``seconds`` is a finite number above 0, or from ``least``.

    Raises:
        ValueError: It is not.
    """
    bound = "above 0" if least is None else f"from {least:g}"
    number = seconds if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) else math.nan
    if not (number > 0 if least is None else least <= number) or number > MAX_SECONDS:
        raise ValueError(f"{name} must be a number of seconds {bound}, not {_short(seconds)}")


def check_lifetime(name: str, seconds: float | None) -> None:
    """Raise unless ``seconds`` can be how long a record is kept: None or 0 forever, or at least one second.

    Raises:
        ValueError: It cannot. Half a second would be none when cut to whole seconds, and none is forever.
    """
    if seconds is None:
        return
    check_seconds(name, seconds, least=0.0)
    if 0 < seconds < 1:
        raise ValueError(f"{name} must be 0 (no expiry) or at least 1 second, not {_short(seconds)}")


def check_count(name: str, number: object, *, least: int = 1) -> None:
    """Raise ValueError unless ``number`` is a whole number from ``least``: NaN and infinity count nothing."""
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {_short(number)}")


def _short(value: object) -> str:
    """A value for a message; a number may have hundreds of digits."""
    text = "a whole number with very many digits" if isinstance(value, int) and abs(value) > 10**18 else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def check_flag(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` is true or false: the text "false" would be true."""
    if not isinstance(value, int) or value not in (0, 1):
        raise ValueError(f"{name} must be True or False, not {_short(value)}")


def check_text(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` is text or None. The value may be a secret, and is not shown."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {type(value).__name__}")


def check_several(name: str, values: object) -> None:
    """Raise ValueError unless ``values`` are several: one number is not."""
    if not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a list, not {_short(values)}")


def check_callable(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")


def check_choice(name: str, choice: str, *known: str) -> None:
    """Raise ValueError, naming the known ones, if ``choice`` is none of them."""
    if choice not in known:
        raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, not {choice!r}")
