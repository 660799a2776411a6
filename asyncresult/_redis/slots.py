"""Which node has which slot of a cluster, and what its redirections mean. Pure: no I/O, no clock.

A cluster has 16384 slots, and the key, or its part in braces, decides for one of them. A node that does not serve the
slot of a key names the one that does:

* ``MOVED slot host:port``: the slot has a new owner, to be remembered, and a reason to look at all slots anew.
* ``ASK slot host:port``: the slot is being moved there, and this key has left already. "Send only the query that was
  redirected to the specified node", started with ASKING, and "don't yet update local client tables".

Source: Redis cluster specification, "MOVED redirection", "ASK redirection"; CLUSTER SLOTS command page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from .._storage.keys import SLOTS, slot_of
from .address import Address
from .exceptions import AskError, MovedError

__all__ = ["Redirected", "Slots", "read_redirection"]

T = TypeVar("T")


class Redirected(NamedTuple):
    """A reply that sends the command to another node.

    Attributes:
        slot: The slot of its key.
        to: The node; None where the reply does not give its name.
        once: Whether only this command goes there, after ASKING; otherwise the slot has a new owner.
    """

    slot: int
    to: Address | None
    once: bool


def read_redirection(reply: Any) -> Redirected | None:
    """Where a reply sends the command to; None for a reply that is final."""
    if not isinstance(reply, AskError):
        return None
    to = Address(reply.host, reply.port) if reply.host else None  # a node may not know the name of another one
    if isinstance(reply, MovedError):
        return Redirected(reply.slot_id, to, once=False)
    return Redirected(reply.slot_id, to, once=True) if to is not None else None


class Slots:
    """The owner of each slot, as far as it is known.

    Attributes:
        primaries: The nodes that had slots when the cluster was last looked at.
    """

    def __init__(self) -> None:
        self.primaries: frozenset[Address] = frozenset()
        self._owners: list[Address | None] = [None] * SLOTS

    def owner_of(self, key: bytes) -> Address | None:
        return self._owners[slot_of(key)]

    def by_owner(self, keyed: Iterable[tuple[bytes, T]]) -> dict[Address | None, list[T]]:
        """What goes to each node; under None, what belongs to a slot without a known owner."""
        groups: dict[Address | None, list[T]] = {}
        for key, item in keyed:
            groups.setdefault(self.owner_of(key), []).append(item)
        return groups

    def moved(self, redirected: Redirected) -> None:
        """Remember the new owner of a slot."""
        if redirected.to is not None:
            self._owners[redirected.slot] = redirected.to

    def replace(self, answer: Sequence[Sequence[Any]], given_by: Address) -> bool:
        """Take over an answer to CLUSTER SLOTS; whether it differs from what was known."""
        owners: list[Address | None] = [None] * SLOTS
        for first, last, (host, port, *_), *_ in answer:
            # No name, or an empty one: the one that the command was sent to (CLUSTER SLOTS command page).
            owner = Address(host.decode() if host else given_by.host, int(port))
            owners[first : last + 1] = [owner] * (last + 1 - first)
        if owners == self._owners:
            return False
        self._owners = owners
        self.primaries = frozenset(owner for owner in owners if owner is not None)
        return True
