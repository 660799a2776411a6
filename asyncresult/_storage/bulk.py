"""Many results of one caller: encoded and sent in portions, each with an outcome of its own.

While the store works on one portion the next one is encoded; two are under way at the most, so that a million results
need no memory for a million records, and the event loop has its turn in between.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple, NoReturn

from ..errors import AsyncResultError
from ..states import SUCCESS
from .engine import Outcome

__all__ = ["Bulk", "Encode", "Record", "Send"]

#: Results that are encoded without a turn of the event loop: one to two milliseconds.
PORTION = 250
#: Portions on their way at a time: what is encoded beside them finds the store busy.
UNDER_WAY = 2

Record = tuple[bytes, bytes]
"""Key and payload."""
Encode = Callable[[str, Any], Record]
Send = Callable[[list[Record]], asyncio.Future[list[Outcome]]]


class Bulk(ABC):
    """Stores the results of many tasks at once."""

    async def store_many(
        self, results: Iterable[tuple[str, Any]], state: str = SUCCESS, *, expires: float | None = None
    ) -> list[bool]:
        """Store one state of many tasks: as ``store_result()`` for each, at a third of its cost.

        Each record is stored and announced in an atomic step of its own, and one that fails keeps no other from being
        stored. The results are taken in portions, so they may come from a generator.

        Args:
            results: Ids and values; for FAILURE, RETRY and REVOKED exceptions.
            expires: Seconds to keep them, instead of the backend's setting.

        Returns:
            For each, in order, whether it was stored; False if what is there already has precedence.

        Raises: as :meth:`store_result`, the first error among them, when each result has been stored or has failed. A
            note says which one it is, and how many there are.

        Wire: as :meth:`store_result`, fifty records with each EVALSHA.
        """
        return await _store_in_portions(results, *self._bulk(state, expires))

    @abstractmethod
    def _bulk(self, state: str, expires: float | None) -> tuple[Encode, Send]:
        """How to encode a result of that state, and how to send what was encoded."""


class _Portion(NamedTuple):
    """Results on their way.

    Attributes:
        ids: Of all.
        refused: Why those cannot be stored that were not sent, by their place.
        sent: The outcomes of the others.
    """

    ids: list[str]
    refused: dict[int, Exception]
    sent: asyncio.Future[list[Outcome]] | None

    async def outcomes(self) -> list[Outcome]:
        """Those of all, in order."""
        outcomes = await self.sent if self.sent is not None else []
        for place, error in self.refused.items():  # in rising order
            outcomes.insert(place, error)
        return outcomes


async def _store_in_portions(results: Iterable[tuple[str, Any]], encode: Encode, send: Send) -> list[bool]:
    """Whether each was stored, in the order of ``results``.

    Raises: the first error among them, with a note, when each has been stored or has failed.
    """
    outcomes: list[Outcome] = []
    ids: list[str] = []
    under_way: deque[_Portion] = deque()

    async def take_first() -> None:
        portion = under_way.popleft()
        ids.extend(portion.ids)
        outcomes.extend(await portion.outcomes())

    for pairs in _portions(results):
        if len(under_way) == UNDER_WAY:
            await take_first()
        under_way.append(_begin(pairs, encode, send))
        await asyncio.sleep(0)  # it leaves
    while under_way:
        await take_first()
    stored = [outcome for outcome in outcomes if isinstance(outcome, bool)]
    if len(stored) < len(outcomes):
        _raise_first(ids, outcomes, len(stored))
    return stored


def _portions(results: Iterable[tuple[str, Any]]) -> Iterator[list[tuple[str, Any]]]:
    rest = iter(results)
    while pairs := list(islice(rest, PORTION)):
        yield pairs


def _begin(pairs: list[tuple[str, Any]], encode: Encode, send: Send) -> _Portion:
    records: list[Record] = []
    refused: dict[int, Exception] = {}
    for place, (task_id, result) in enumerate(pairs):
        try:
            records.append(encode(task_id, result))
        except (AsyncResultError, ValueError) as error:
            refused[place] = error
    return _Portion([task_id for task_id, _ in pairs], refused, send(records) if records else None)


def _raise_first(ids: list[str], outcomes: list[Outcome], stored: int) -> NoReturn:
    place, error = next((place, one) for place, one in enumerate(outcomes) if isinstance(one, BaseException))
    error.add_note(f"the result of task {ids[place]!r}; {len(outcomes) - stored} of {len(outcomes)} have failed")
    raise error
