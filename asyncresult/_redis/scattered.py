"""A job on its way through a cluster: in parts, one for each node, each redirected, repeated or given up by itself.

The rules of the Redis cluster specification ("Redirection and resharding") that are kept here: MOVED means that all
further commands about the slot go to the new node, and that the table of slots is to be read again; ASK means that
the next command alone goes there, after ASKING, and that the table stays as it is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from ..errors import BackendClosed, BackendError
from .address import Address
from .packing import Command
from .pump import Job, Pump
from .slots import Redirected, Slots, read_redirection

__all__ = ["Part", "Router", "Scattered"]

#: Redirections of one job that are followed at once; from there on it waits for a look at the slots, so
#: that two nodes which name each other do not keep us running between them.
PROMPT_REDIRECTIONS = 2


class Router(Protocol):
    """Who has the slots and the nodes: :class:`.cluster.Cluster`."""

    slots: Slots

    def node(self, address: Address) -> Pump:
        """The commands of one node."""
        ...

    def moved(self, redirected: Redirected) -> None:
        """A slot has a new owner."""

    def undelivered(self, jobs: Iterable[Job]) -> None:
        """Keep these parts until the next look at the slots."""

    def finished(self, whole: Scattered) -> None:
        """The job is done, or has failed."""


class Scattered:
    """A job on its way through the cluster; done when every command has a reply that is no redirection."""

    def __init__(self, router: Router, job: Job) -> None:
        self.router = router
        self.job = job
        self.losses: Counter[int] = Counter()  # by number, for commands that were alone when a connection was lost
        self._replies: list[Any] = [None] * len(job.commands)
        self._left = len(job.commands)
        self._over = False
        self._redirections = 0
        if job.patience is not None:
            job.deadline = asyncio.get_running_loop().time() + job.patience

    def send(self, numbers: Iterable[int]) -> None:
        """Send the commands with these numbers, one part to each owner."""
        by_owner = self.router.slots.by_owner((_key_of(self.job.commands[number]), number) for number in numbers)
        for owner, own in by_owner.items():
            part = Part(self, own)
            if owner is None:
                self.router.undelivered([part])
            else:
                self.router.node(owner).submit(part)

    def answered(self, numbers: Sequence[int], replies: Sequence[Any]) -> None:
        moved: list[int] = []
        for number, reply in zip(numbers, replies, strict=True):
            redirected = read_redirection(reply)
            if redirected is None:
                self._replies[number] = reply
                self._left -= 1
            elif redirected.once and redirected.to is not None:
                self.router.node(redirected.to).submit(Part(self, [number], asking=True))
            else:
                self.router.moved(redirected)
                moved.append(number)
        if moved and not self._over:
            self._redirections += 1
            if self._redirections <= PROMPT_REDIRECTIONS:
                self.send(moved)
            else:
                self.router.undelivered([Part(self, moved)])
        if not self._left and not self._over:
            self.router.finished(self)
            self.job.done(self._replies)
            self._over = True

    def failed(self, error: BackendError | BackendClosed) -> None:
        """One part failed, or :meth:`answered` raised."""
        if not self._over:
            self._over = True
            self.router.finished(self)
            self.job.failed(error)


class Part(Job):
    """What goes to one node."""

    __slots__ = ("_asking", "_numbers", "_whole")

    def __init__(self, whole: Scattered, numbers: list[int], *, asking: bool = False) -> None:
        commands = [whole.job.commands[number] for number in numbers]
        super().__init__([("ASKING",), *commands] if asking else commands, whole.job.patience)
        self.deadline = whole.job.deadline
        self._whole = whole
        self._numbers = numbers
        self._asking = asking
        self.losses = whole.losses[numbers[0]] if len(numbers) == 1 else 0

    def done(self, replies: list[Any]) -> None:
        self._whole.answered(self._numbers, replies[1:] if self._asking else replies)

    def failed(self, error: BackendError | BackendClosed) -> None:
        self._whole.failed(error)

    @property
    def key(self) -> bytes | None:
        command = self._whole.job.commands[self._numbers[0]]
        return _key_of(command) if len(self._numbers) == 1 and command[0] == "MGET" else None

    def split(self, size: int) -> Sequence[Job]:
        if self._asking:
            return (self,)
        return [Part(self._whole, self._numbers[i : i + size]) for i in range(0, len(self._numbers), size)]

    def send(self) -> None:
        """Send it to whoever owns the slots now."""
        if len(self._numbers) == 1:
            self._whole.losses[self._numbers[0]] = self.losses
        self._whole.send(self._numbers)

    def is_over(self) -> bool:
        """Whether the patience is used up."""
        return self.deadline is not None and asyncio.get_running_loop().time() >= self.deadline


def _key_of(command: Command) -> bytes:
    """The key that decides where a command goes; all others of it live in the same slot."""
    key: bytes = command[3] if command[0] in ("EVAL", "EVALSHA") else command[1]
    return key
