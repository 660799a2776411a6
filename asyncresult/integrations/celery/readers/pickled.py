"""Pickles that hold plain values only: what Celery 5.5 and 5.6 keep in the ``result`` column of an SQL database.

A pickle is a program. This reads those that build numbers, texts, lists, mappings and a few types of the standard
library, and refuses every other before any of it has run. Celery 5.7 writes no pickles there.

Many numbers with the same hash are refused before they become keys or members: a mapping of 100,000 would take minutes,
and a set would hold the GIL for as long.

Why it is safe: the interpreter is the one in Python, not in C (which reserves memory for whatever index a pickle
names); a class is looked up in the table below and nowhere else; registered extensions are refused; state is set on
UUIDs only; and what was built is weighed, because references can make a small pickle huge.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from ....codec import register_type

__all__ = ["is_pickled", "load_plain"]

#: Numbers with the same hash, as keys or members of anything in a value. By chance there are two.
_MOST_ALIKE = 100
_MODULUS = sys.hash_info.modulus


class _Hashes:
    """Counts numbers with the same hash: below the modulus each has its own.

    Args:
        most: How many keys and members there may be, with what is in them: a tuple of tuples, each of which has the
            next one twice, is small, but its hash takes hours.
    """

    def __init__(self, most: int) -> None:
        self._left = most
        self._met: set[Any] = set()
        self._alike: dict[int, int] = {}

    def add_all(self, items: Iterable[Any]) -> None:
        """Note what is about to be keys or members.

        Raises:
            ValueError: There are too many of one hash, or too many at all.
            TypeError: One is not hashable.
        """
        for item in items:
            self._left -= 1
            if self._left < 0:
                raise ValueError("its references multiply without bound")
            if isinstance(item, (tuple, frozenset)):
                self.add_all(item)
            elif isinstance(item, (Decimal, UUID)) or (isinstance(item, int) and abs(item) >= _MODULUS):
                self._add(item)

    def _add(self, number: Any) -> None:
        if number not in self._met:
            self._met.add(number)
            hashed = hash(number)
            self._alike[hashed] = self._alike.get(hashed, 0) + 1
            if self._alike[hashed] > _MOST_ALIKE:
                raise ValueError("too many numbers of one hash")

    def set_of(self, items: Iterable[Any]) -> set[Any]:
        items = list(items)
        self.add_all(items)
        return set(items)


_ALLOWED: dict[tuple[str, str], Any] = {
    **{("datetime", cls.__name__): cls for cls in (date, datetime, time, timedelta, timezone)},
    ("decimal", "Decimal"): Decimal,
    ("uuid", "UUID"): UUID,
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
        value = _PlainUnpickler(cell).load()
    except (Exception, MemoryError) as error:
        raise ValueError(f"not a pickle of plain values: {type(error).__name__}: {error}") from None
    return _Wrapping(len(cell) * _VALUES_A_BYTE).wrap(value, 0)


_InPython: Any = pickle._Unpickler


def _checked(check: Callable[[Any], None], load: Callable[[Any], None]) -> Callable[[Any], None]:
    """A step of the unpickler, behind a look at what it is about to use, which is on the stack."""

    def checked(unpickler: Any) -> None:
        check(unpickler)
        load(unpickler)

    return checked


class _PlainUnpickler(_InPython):  # type: ignore[misc]
    def __init__(self, cell: bytes) -> None:
        super().__init__(io.BytesIO(cell))
        self._hashes = _Hashes(len(cell) * _VALUES_A_BYTE)
        self._containers: dict[tuple[str, str], Any] = {
            ("builtins", "set"): self._set,
            ("builtins", "frozenset"): self._frozenset,
            ("collections", "OrderedDict"): self._mapping,
        }

    def _set(self, items: Iterable[Any] = ()) -> set[Any]:
        return self._hashes.set_of(items)

    def _frozenset(self, items: Iterable[Any] = ()) -> frozenset[Any]:
        return frozenset(self._hashes.set_of(items))

    def _mapping(self, pairs: Iterable[Any] = ()) -> OrderedDict[Any, Any]:
        pairs = [(key, value) for key, value in pairs]
        self._hashes.add_all(key for key, _ in pairs)
        return OrderedDict(pairs)

    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return self._containers.get((module, name)) or _ALLOWED[module, name]
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

    def _check_keys(self) -> None:
        self._hashes.add_all(self.stack[::2])

    def _check_members(self) -> None:
        self._hashes.add_all(self.stack)

    def _check_key(self) -> None:
        self._hashes.add_all(self.stack[-2:-1])

    dispatch: ClassVar[Any] = {
        **_InPython.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: _checked(_check_key, _InPython.load_setitem),
        **{
            code[0]: _checked(check, _InPython.dispatch[code[0]])
            for code, check in (
                (pickle.DICT, _check_keys),
                (pickle.SETITEMS, _check_keys),
                (pickle.ADDITEMS, _check_members),
                (pickle.FROZENSET, _check_members),
            )
        },
    }


class _Tagged:
    """A value of a type that Celery's JSON cannot write: for what was read from a pickle, and for nothing else."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Set(_Tagged): ...


class _FrozenSet(_Tagged): ...


class _Duration(_Tagged): ...


def _hashable(item: Any) -> Any:
    return tuple(map(_hashable, item)) if isinstance(item, list) else item  # only a tuple can have been in a set


def _members(items: Any) -> set[Any]:
    # Not only what was a pickle looks like this. Nothing in it is there twice.
    return _Hashes(sys.maxsize).set_of(map(_hashable, items))


register_type(_Set, "asyncresult.set", lambda tagged: tagged.value, _members)
register_type(
    _FrozenSet, "asyncresult.frozenset", lambda tagged: tagged.value, lambda items: frozenset(_members(items))
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
