"""What a publisher needs of the broker that it sends to: :mod:`.redis_broker`, :mod:`.amqp_broker`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from kombu.exceptions import OperationalError

from ..._storage.notes import Note
from ...backend import Backend
from .templates import TemplateComposer

__all__ = ["Broker", "SendUnconfirmed"]


class SendUnconfirmed(OperationalError):
    """The message may have been sent: the connection was lost, or closed, before the broker's answer came.

    Sending again may send the task twice. What was not sent at all raises another OperationalError.
    """


class Broker(Protocol):
    """The broker of an app, and the connections to it: one for each event loop."""

    def composer(self) -> TemplateComposer:
        """What collects messages for it."""
        ...

    async def send(self, commands: Sequence[Any], patience: float | None, notes: Sequence[Note]) -> None:
        """Send what a composer has collected, over an outage of ``patience`` seconds (None: forever).

        Args:
            notes: Notes that are written in the same step; there are some only where :meth:`keeps_notes_of`.

        Raises:
            SendUnconfirmed: It may have been sent.
            kombu.exceptions.OperationalError: It was not.
            Exception: What kombu raises where the broker refuses it; it was not sent.
        """
        ...

    def composed(self, commands: Sequence[Any]) -> None:
        """Messages were made, in any thread; those that are made later may count on what these declare."""
        ...

    def keeps_notes_of(self, backend: Backend) -> bool:
        """Whether what a backend notes is written over the connection that sends."""
        ...

    def close_with(self, backend: Backend) -> None:
        """Close the connections together with a backend of the app's, which somebody enters."""
        ...
