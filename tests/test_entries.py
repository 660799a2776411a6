"""The two tables of transitions beside :class:`asyncresult._storage.entries.Entry`, walked row by row."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest

from asyncresult._storage import entries
from asyncresult._storage.entries import ACKED, EARLY, IDLE, NONE, QUEUED, SENT, SURE
from asyncresult.errors import BackendError
from tests.tools.tables import Table, Waiter

KEY = b"k"

#: Row of a table, by its first two columns: histories that end with it, and the subscription and the read then.
ROWS: dict[tuple[str, str], dict[str, tuple[int, int]]] = {
    ("NONE", "SUBSCRIBE is sent"): {"wait flush": (SENT, EARLY)},
    ("SENT", "the acknowledgement"): {
        "wait flush miss ack": (ACKED, QUEUED),
        "wait flush ack": (ACKED, EARLY),
    },
    ("any", "the connection is lost, or the server ends it"): {
        "wait lose": (NONE, QUEUED),
        "wait flush lose": (NONE, EARLY),
        "wait flush miss ack flush lose": (NONE, EARLY),
        "wait flush miss ack flush drop": (NONE, EARLY),
        "wait flush miss ack flush drop flush": (SENT, EARLY),
        "wait flush miss ack flush miss lose connect flush": (SENT, IDLE),
    },
    ("any", "the server refuses it"): {"wait flush refuse": (NONE, EARLY), "wait flush ack refuse": (NONE, EARLY)},
    ("any", "a read is wanted"): {
        "wait": (NONE, QUEUED),
        "wait flush leave wait": (SENT, QUEUED),
        "wait flush leave wait miss": (SENT, QUEUED),
        "wait flush miss ack flush miss sweep": (ACKED, QUEUED),
    },
    ("QUEUED", "its chunk is sent"): {"wait flush": (SENT, EARLY), "wait flush miss ack flush": (ACKED, SURE)},
    ("QUEUED", "its chunk, with nobody waiting"): {"wait leave flush": (NONE, IDLE)},
    ("EARLY", "the answer"): {
        "wait flush miss": (SENT, IDLE),
        "wait flush ack miss": (ACKED, QUEUED),
        "wait flush found": (SENT, IDLE),
    },
    ("SURE", "the answer"): {
        "wait flush miss ack flush miss": (ACKED, IDLE),
        "wait flush miss ack flush found": (ACKED, IDLE),
    },
}


class Walk:
    """One key, and what may happen to it, by name."""

    def __init__(self) -> None:
        self.table = Table()
        self.waiter: Waiter | None = None

    def wait(self) -> None:
        self.waiter = Waiter(self.table, KEY)
        self.entry = self.table._entries[KEY]

    def leave(self) -> None:
        assert self.waiter is not None
        self.table.discard(KEY, self.waiter)

    def flush(self) -> None:
        self.table._flush()

    def ack(self) -> None:
        self.table.acked([KEY])

    def miss(self) -> None:
        self.table.fetched([(KEY, None)])

    def found(self) -> None:
        self.table.fetched([(KEY, b"STARTED")])

    def lose(self) -> None:
        self.table.disconnected()

    def connect(self) -> None:
        self.table.connected()

    def drop(self) -> None:
        self.table.dropped([KEY])

    def refuse(self) -> None:
        self.table.refused([KEY], BackendError("no"))
        assert self.waiter is not None and len(self.waiter.errors) == 1

    def sweep(self) -> None:
        self.table.sweep()

    def run(self, history: str) -> tuple[int, int]:
        for name in history.split():
            step: Callable[[], None] = getattr(self, name)
            step()
        return self.entry.subscription, self.entry.read


@pytest.mark.parametrize(
    ("history", "states"),
    [pytest.param(*case, id=case[0]) for case in itertools.chain.from_iterable(row.items() for row in ROWS.values())],
)
def test_a_transition(history: str, states: tuple[int, int]) -> None:
    assert Walk().run(history) == states


def test_every_row_is_walked() -> None:
    """The rows of both tables in the module's docstring: a row that goes on has nothing in its first column."""
    assert entries.__doc__ is not None
    rows: list[list[str]] = []
    for table in re.findall(
        r"^=[= ]+\n(?:subscription|read) .*\n=[= ]+\n((?:[^=].*\n)+)", entries.__doc__, re.MULTILINE
    ):
        for line in table.splitlines():
            state, on = line[:12].strip(), line[13:43].strip()
            if state:
                rows.append([state, on])
            else:
                rows[-1][1] = f"{rows[-1][1]} {on}".strip()
    assert sorted(map(tuple, rows)) == sorted(ROWS)
