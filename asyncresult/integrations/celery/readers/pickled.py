"""Pickles that hold plain values only: what Celery 5.5 and 5.6 keep in the ``result`` column of an SQL database.

A pickle is a program. This reads those that build numbers, texts, lists, mappings and a few types of the standard
library, and refuses every other before any of it has run. Celery 5.7 writes no pickles there.

Why it is safe: the interpreter is the one in Python, not in C (which reserves memory for whatever index a pickle
names); a class is looked up in the table below and nowhere else; registered extensions are refused; state is set on
UUIDs only; and what was built is weighed, because references can make a small pickle huge.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from ....codec import register_type

__all__ = ["is_pickled", "load_plain"]

_ALLOWED: dict[tuple[str, str], Any] = {
    **{("datetime", cls.__name__): cls for cls in (date, datetime, time, timedelta, timezone)},
    ("decimal", "Decimal"): Decimal,
    ("uuid", "UUID"): UUID,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("collections", "OrderedDict"): OrderedDict,
}
#: How many values one may hold: as many as there can be in it, unless the same part is referred to again and again.
_VALUES_A_BYTE = 4


def is_pickled(cell: bytes) -> bool:
    """Whether these are the first bytes of a pickle; not even an empty MessagePack mapping begins so."""
    return len(cell) > 1 and cell[0] == 0x80 and 2 <= cell[1] <= pickle.HIGHEST_PROTOCOL


def load_plain(cell: bytes) -> Any:
    """The value, with types that JSON has no word for in a wrapping that it has.

    Raises:
        ValueError: It holds anything else, is damaged, or is too much.
    """
    try:
        value = _PlainUnpickler(io.BytesIO(cell)).load()
    except (Exception, MemoryError) as error:
        raise ValueError(f"not a pickle of plain values: {type(error).__name__}: {error}") from None
    return _Wrapping(len(cell) * _VALUES_A_BYTE).wrap(value, 0)


_InPython: Any = pickle._Unpickler


class _PlainUnpickler(_InPython):  # type: ignore[misc]
    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not a plain value") from None

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError("an extension is not a plain value")

    def load_build(self) -> None:
        state = self.stack.pop()
        set_state = getattr(self.stack[-1], "__setstate__", None) if type(self.stack[-1]) is UUID else None
        if set_state is None:
            raise pickle.UnpicklingError("plain values have no state")
        set_state(state)

    dispatch: ClassVar[Any] = {**_InPython.dispatch, pickle.BUILD[0]: load_build}


class _Tagged:
    """A value of a type that Celery's JSON cannot write: for what was read from a pickle, and for nothing else."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Set(_Tagged): ...


class _FrozenSet(_Tagged): ...


class _Duration(_Tagged): ...


def _hashable(item: Any) -> Any:
    return tuple(map(_hashable, item)) if isinstance(item, list) else item  # only a tuple can have been in a set


register_type(_Set, "asyncresult.set", lambda tagged: tagged.value, lambda items: set(map(_hashable, items)))
register_type(
    _FrozenSet, "asyncresult.frozenset", lambda tagged: tagged.value, lambda items: frozenset(map(_hashable, items))
)
register_type(
    _Duration,
    "asyncresult.timedelta",
    lambda tagged: [tagged.value.days, tagged.value.seconds, tagged.value.microseconds],
    lambda parts: timedelta(*parts),
)

_DEEPEST = 500


class _Wrapping:
    """Walks through a value, and gives up when there is more of it than a pickle of that size can say."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def wrap(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > _DEEPEST:
            raise ValueError("its references multiply without bound, or form a cycle")
        if isinstance(value, dict):
            return {key: self.wrap(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.wrap(item, depth + 1) for item in value]
        if isinstance(value, (set, frozenset)):
            tag = _Set if isinstance(value, set) else _FrozenSet
            return tag([self.wrap(item, depth + 1) for item in value])
        return _Duration(value) if isinstance(value, timedelta) else value
