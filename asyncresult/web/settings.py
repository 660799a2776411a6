"""What one mounted part of the web is allowed to do."""

from __future__ import annotations

import inspect
import itertools
import weakref
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import HTTPConnection

from .._checks import check_callable, check_count, check_flag, check_seconds, check_task_id, check_text
from ..backend import Backend, current_backend
from ..result import AsyncResult
from .problems import Problem
from .tokens import Tokens

__all__ = ["Authorize", "Settings", "served_settings"]

Authorize = Callable[[Any, str], bool | Awaitable[bool]]

_numbers = itertools.count(1)
_served: dict[str, weakref.ref[Settings]] = {}


def served_settings() -> Iterator[Settings]:
    """Those by which tasks are served in this process, oldest first."""
    return (settings for reference in list(_served.values()) if (settings := reference()) is not None)


@dataclass(eq=False)
class Settings:
    """Options of :func:`.create_app` and :func:`.router`.

    Attributes:
        authorize: ``authorize(request, task_id)``, a function or coroutine function: whether the client may see the
            task. Required, unless ``tokens`` are used.
        tokens: Signed tokens, in the URLs in place of ids.
        backend: Where the results are; None is the current backend at the time of the request.
        revoke: Whether tasks may be revoked.
        forget: Whether records may be deleted.
        reveal_errors: Whether a failure's class and text are shown. Its traceback never is.
        max_wait: Seconds that a client may have a request wait.
        stream_life: Seconds after which a stream ends, and the client comes back.
        ping: Seconds of silence after which a stream sends a comment, so that proxies keep it open.
        retry: Seconds after which a client whose stream has ended comes back.
        max_streams: Streams, and requests that wait, at a time, of all clients.
        max_streams_per_client: The same from one address. (Behind a proxy the server has to know which
            proxy to trust, e.g. ``uvicorn --forwarded-allow-ips``; else all clients have one address.)
        max_ids: Tasks that one stream may follow.
        home: Where a link at the top of the pages leads; None for no link.

    Raises:
        TypeError: There is neither ``authorize`` nor ``tokens``; or ``authorize`` cannot be called.
        ValueError: A number, or whether something is allowed, is invalid.
    """

    authorize: Authorize | None = None
    tokens: Tokens | None = None
    backend: Backend | None = None
    revoke: bool = False
    forget: bool = False
    reveal_errors: bool = False
    max_wait: float = 25.0
    stream_life: float = 300.0
    ping: float = 15.0
    retry: float = 1.0
    max_streams: int = 1000
    max_streams_per_client: int = 50
    max_ids: int = 100
    home: str | None = None
    streams: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    """How many streams each client has open."""
    route_name: str = field(default="", init=False, repr=False)
    """The name of the route of a task's status."""

    def __post_init__(self) -> None:
        if self.authorize is None and self.tokens is None:
            raise TypeError(
                "authorize is required: authorize(request, task_id) says who may see a task"
                " (or use tokens=Tokens(secret))"
            )
        if self.authorize is not None:
            check_callable("authorize", self.authorize)
        for name in ("revoke", "forget", "reveal_errors"):
            check_flag(name, getattr(self, name))
        check_text("home", self.home)
        for name in ("max_wait", "stream_life", "ping", "retry"):
            check_seconds(name, getattr(self, name))
        for name in ("max_streams", "max_streams_per_client", "max_ids"):
            check_count(name, getattr(self, name))
        self.route_name = f"asyncresult-status-{next(_numbers)}"

    def are_served(self) -> None:
        """Have them found by :func:`served_settings` from now on."""
        name = self.route_name
        _served[name] = weakref.ref(self, lambda _: _served.pop(name, None))

    async def task_id(self, request: HTTPConnection, named: str) -> str:
        """The id of the task that a URL names, if it may be seen.

        Raises:
            Problem: 400 for what cannot be an id; 404 for what may not be seen, as for what does not exist.
        """
        try:
            id = self.tokens.read(named, request) if self.tokens is not None else check_task_id(named)
        except ValueError:
            if self.tokens is not None:
                raise Problem.not_found() from None
            raise Problem(400, "Malformed task id", "A task id has no control characters and is not empty.") from None
        await self.check(request, id)
        return id

    async def check(self, request: HTTPConnection, id: str) -> None:
        """See that the client may see a task.

        Raises:
            Problem: 404.
        """
        if self.authorize is not None:
            allowed = self.authorize(request, id)
            if inspect.isawaitable(allowed):
                allowed = await allowed
            if not allowed:
                raise Problem.not_found()

    def name_of(self, request: HTTPConnection, id: str) -> str:
        """The task's name in URLs: its id, or a token."""
        return id if self.tokens is None else self.tokens.make(id, request)

    def handle(self, id: str) -> AsyncResult[Any]:
        """The handle on a task.

        Raises:
            Problem: 503 where no backend is connected.
        """
        try:
            return AsyncResult(id, backend=current_backend() if self.backend is None else self.backend)
        except (RuntimeError, ValueError):  # ValueError: the results of Celery's current app are out of reach
            raise Problem(503, "Not connected", "No backend is connected.", retry_after=1) from None

    def open_stream(self, client: str) -> None:
        """Count a stream.

        Raises:
            Problem: 429 where there are too many.
        """
        mine = self.streams.get(client, 0)
        if mine >= self.max_streams_per_client or sum(self.streams.values()) >= self.max_streams:
            raise Problem(429, "Too many streams", "Close one, or poll the status instead.", retry_after=5)
        self.streams[client] = mine + 1

    def close_stream(self, client: str) -> None:
        """Count a stream no more."""
        if self.streams[client] > 1:
            self.streams[client] -= 1
        else:
            del self.streams[client]
