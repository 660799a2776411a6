"""A value of a record, as the type that a handle expects."""

from __future__ import annotations

import functools
import re
import sys
import types
import typing
from decimal import Decimal
from typing import Any

import msgspec

from ..errors import ResultTypeError
from .exceptions import call_of_others, printable, safe_repr

__all__ = ["convert"]

#: Characters of what is wrong.
_MOST_WORDS = 1000
#: As Python's own limit for whole numbers as text.
_MOST_DIGITS = 4300


def convert(value: Any, type: Any, *, task_id: str) -> Any:
    """Make a value the type that a handle expects.

    Args:
        value: What the record holds.
        type: Any or None, and nothing is done; or what msgspec converts to (builtin and generic types, dataclasses,
            TypedDict, NamedTuple, Enum, ``msgspec.Struct`` …), or pydantic's models, adapters and types with such
            parts. Nothing is guessed: ``"1"`` is not an int. Keys of mappings are converted: JSON makes them text.
        task_id: For the error.

    Raises:
        ResultTypeError: It is not of that type, or that is not such a type.
    """
    if type is Any or type is None:
        return value
    try:
        adapter = _adapter(type)
        if adapter is not None:
            return call_of_others(_validated, adapter, value)
        return call_of_others(_converted, value, type)
    except Exception as error:
        name = getattr(type, "__qualname__", "") if not typing.get_args(type) else ""
        complaint = _complaint(error)
        _forget_frames(error)
        raise ResultTypeError(
            f"the result of task {task_id!r} is not of the type {name or safe_repr(type)}: {complaint}",
            task_id=task_id,
        ) from error


def _forget_frames(error: BaseException | None) -> None:
    """Theirs lead to those of whoever is given the error, which would be kept by it until the collector runs."""
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__


def _converted(value: Any, type: Any) -> Any:
    try:
        # Bytes have a tag of their own in JSON: a text is not taken for their base64.
        return msgspec.convert(value, type, str_keys=True, builtin_types=(bytes,), dec_hook=_inner)
    except TypeError as error:  # not a type for msgspec
        members = typing.get_args(type) if typing.get_origin(type) in (typing.Union, types.UnionType) else ()
        if not members:
            raise
        problem = error
    for member in members:  # a union of several classes: the first that fits
        try:
            return None if value is member is None else _converted(value, member)
        except (TypeError, ValueError):
            pass
    raise problem


def _inner(type: Any, value: Any) -> Any:
    """A part of a type that msgspec does not know: a pydantic model in a dataclass, say. msgspec checks the class."""
    adapter = _adapter(type)
    return value if adapter is None else _validated(adapter, value)


def _validated(adapter: Any, value: Any) -> Any:
    """What pydantic makes of a value. Of ``Decimal("1e999999999")`` it would make a whole number, for hours."""
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            parts += part.values()
        elif isinstance(part, (list, tuple, set, frozenset)):
            parts += part
        elif isinstance(part, Decimal) and part.is_finite() and abs(part.adjusted()) > _MOST_DIGITS:
            raise ValueError(f"a decimal number has more than {_MOST_DIGITS} digits")
    return adapter.validate_python(value)


def _adapter(type: Any) -> Any:
    """pydantic's validator, for a type in which pydantic has a part; else None."""
    if "pydantic" not in sys.modules:
        return None
    try:
        return _pydantic_adapter(type)
    except TypeError:
        return _pydantic_adapter.__wrapped__(type)  # not hashable: something annotated with a dict, say


@functools.lru_cache(maxsize=256)
def _pydantic_adapter(type: Any) -> Any:
    if not _of_pydantic(type):
        return None
    adapter: Any = sys.modules["pydantic"].TypeAdapter
    return type if isinstance(type, adapter) else adapter(type)


def _of_pydantic(part: Any) -> bool:
    return (
        hasattr(part, "__get_pydantic_core_schema__")
        or hasattr(part, "__pydantic_validator__")
        or type(part).__module__.partition(".")[0] == "pydantic"
        or any(map(_of_pydantic, typing.get_args(part)))
    )


def _complaint(error: Exception) -> str:
    """What is wrong, and where, with the value called ``result``. It may quote names out of the record."""
    try:
        text = call_of_others(_words, error)
    except Exception:
        text = ""
    return printable(text, _MOST_WORDS) or type(error).__name__


def _words(error: Exception) -> str:
    details: Any = getattr(error, "errors", None)
    if callable(details):  # pydantic's
        complaints: Any = details()
        first: dict[str, Any] = complaints[0]
        return f"{first['msg']} - at `result{''.join(f'[{step!r}]' for step in first['loc'])}`"
    return re.sub(r"`\$(.*?)`", r"`result\1`", str(error))
