"""A value of a record, as the type that a handle expects."""

from __future__ import annotations

import builtins
import functools
import re
import sys
import types
import typing
from collections.abc import Mapping, Set
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
#: Whole numbers below this are their own hash; of those of 64 bits, nine have one.
_MODULUS = sys.hash_info.modulus
_DIGITS_OF_MODULUS = len(str(_MODULUS))
#: Of one hash, beside another in the same list or mapping: so many are added in 10 ms.
_MOST_ALIKE = 1000

_is_whole = re.compile("-?[0-9]+").fullmatch


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
        if _hashes_numbers(type):
            _check_numbers(value)
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
        BaseException.with_traceback(error, None)  # a frozen dataclass takes no attribute
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
    """What pydantic makes of a value."""
    _check_numbers(value)
    return adapter.validate_python(value)


def _check_numbers(value: Any) -> None:
    """See that no number in a value takes hours.

    Of ``Decimal("1e999999999")`` pydantic would make a whole number. And whole numbers of more than 64 bits may all
    have one hash: a set of 100,000 of them, or a mapping, takes minutes.
    """
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            parts += part.values()
        elif isinstance(part, (list, tuple, set, frozenset)):
            parts += part
        else:
            if isinstance(part, Decimal) and part.is_finite() and abs(part.adjusted()) > _MOST_DIGITS:
                raise ValueError(f"a decimal number has more than {_MOST_DIGITS} digits")
            continue
        if len(part) > _MOST_ALIKE:
            hashes = [hash(number) for number in map(_large_number, part) if number is not None]
            if len(hashes) - len(set(hashes)) > _MOST_ALIKE:
                raise ValueError("too many whole numbers of one hash")


def _large_number(item: Any) -> int | None:
    """A whole number, or the text of one as a key, that may have the hash of many others."""
    if isinstance(item, int):
        return item if abs(item) >= _MODULUS else None
    if isinstance(item, str) and _DIGITS_OF_MODULUS <= len(item) <= _MOST_DIGITS:
        return int(item) if _is_whole(item) else None
    return None


def _hashes_numbers(type: Any) -> bool:
    """Whether something in a value of this type may be a set, or a mapping, of numbers."""
    try:
        return _known_to_hash_numbers(type)
    except TypeError:  # not hashable: something annotated with a dict, say
        return True


@functools.lru_cache(maxsize=256)
def _known_to_hash_numbers(type: Any) -> bool:
    met: set[Any] = set()
    parts = [type]
    while parts:
        part = parts.pop()
        if part in met:
            continue
        met.add(part)
        cls, arguments = typing.get_origin(part) or part, typing.get_args(part)
        if isinstance(cls, builtins.type):
            if issubclass(cls, Set) and arguments[:1] != (str,):
                return True
            if issubclass(cls, Mapping) and arguments and arguments[0] is not str:
                return True
            if hasattr(cls, "__annotations__"):
                try:
                    parts += typing.get_type_hints(cls).values()
                except Exception:  # a name that is not known here
                    return True
        parts += arguments
    return False


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
