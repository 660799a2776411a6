"""The one view of all URLs: it hands the request to the ASGI app of :mod:`asyncresult.web`.

Under ASGI that app runs on the server's event loop. Under WSGI it runs on the loop of blocking calls, where connections
outlast a request; the thread of the request takes its answer piece by piece. A stream would keep that thread, and most
WSGI servers have few: there a stream ends after a second, and the client comes back for what it has missed.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.middleware.csrf import CsrfViewMiddleware
from django.views.decorators.csrf import csrf_exempt

from ..._checks import check_task_id
from ..._portal import run, start
from ...web.app import create_app
from .exchange import Exchange
from .settings import authorize_function, get_backend, own_setting

__all__ = ["make_app", "serve"]

#: Seconds of a stream, and of a request that waits, where they keep a thread.
WSGI_STREAM_LIFE, WSGI_MAX_WAIT = 1.0, 5.0
_REQUEST = "asyncresult.django.request"
_ALLOWED = "asyncresult.django.allowed"

_apps: dict[bool, Any] = {}


def make_app(*, wsgi: bool) -> Any:
    """The ASGI app for the setting ``ASYNCRESULT``.

    Raises:
        ImproperlyConfigured: The setting is invalid.
        TypeError, ValueError: ``WEB_OPTIONS`` are.
    """
    options = dict(own_setting().get("WEB_OPTIONS") or {})
    for name in ("authorize", "backend", "tokens"):
        if name in options:
            raise ValueError(f"WEB_OPTIONS: {name} is none of them")
    if wsgi:
        options["stream_life"] = min(options.get("stream_life", WSGI_STREAM_LIFE), WSGI_STREAM_LIFE)
        options["max_wait"] = min(options.get("max_wait", WSGI_MAX_WAIT), WSGI_MAX_WAIT)
    authorize_function()  # raises
    return create_app(authorize=_authorize, backend=get_backend(), **options)


@csrf_exempt  # type: ignore[untyped-decorator]
async def serve(request: HttpRequest, segments: int, task_id: str | None = None, name: str = "") -> HttpResponseBase:
    """Answer as :mod:`asyncresult.web` does."""
    refused = _refuse_other_sites(request)
    if refused is not None:
        return refused
    wsgi = not hasattr(request, "scope")
    if wsgi not in _apps:
        _apps[wsgi] = make_app(wsgi=wsgi)
    scope = _scope(request, segments)
    ids = [task_id] if task_id is not None else request.GET.getlist("id")
    scope[_ALLOWED] = {id: await _ask(request, id) for id in ids if _is_id(id)}
    exchange = Exchange(_apps[wsgi], scope)
    if not wsgi:
        answer = await exchange.begin()
        return _response(answer.status, answer.headers, answer.body if answer.whole else _Stream(exchange, answer.body))
    # Without the context of this request: see ExecutorBackend.
    answer = await asyncio.wrap_future(contextvars.Context().run(start, exchange.begin))
    return _response(
        answer.status, answer.headers, answer.body if answer.whole else _BlockingStream(exchange, answer.body)
    )


def _scope(request: HttpRequest, segments: int) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.scheme,
        "path": request.path,
        "root_path": request.path.rsplit("/", segments)[0],
        "query_string": request.META.get("QUERY_STRING", "").encode("latin-1", "replace"),
        "headers": [
            (key.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
            for key, value in request.headers.items()
        ],
        "client": (request.META.get("REMOTE_ADDR", ""), 0),
        "server": None,
        _REQUEST: request,
    }


# -- who may see it -----------------------------------------------------------------------------------------


async def _ask(request: HttpRequest, id: str) -> bool:
    """AUTHORIZE, a synchronous one in the thread of the request: it may use the database, and ``request.user``."""
    function = authorize_function()
    if iscoroutinefunction(function):
        return bool(await function(request, id))
    return bool(await sync_to_async(function)(request, id))


async def _authorize(request: Any, id: str) -> bool:
    """For :class:`asyncresult.web.Settings`: as it was answered before; below a task others are met."""
    allowed: dict[str, bool] = request.scope[_ALLOWED]
    if id not in allowed:
        allowed[id] = await _ask(request.scope[_REQUEST], id)
    return allowed[id]


def _is_id(text: str) -> bool:
    try:
        check_task_id(text)
    except ValueError:
        return False
    return True


def _refuse_other_sites(request: HttpRequest) -> HttpResponse | None:
    """What changes something comes from a page of this site: the browser says so, or there is Django's token."""
    if request.method in ("GET", "HEAD", "OPTIONS") or request.headers.get("Sec-Fetch-Site") == "same-origin":
        return None
    middleware = CsrfViewMiddleware(_nothing)
    middleware.process_request(request)
    refused: HttpResponse | None = middleware.process_view(request, _nothing, (), {})
    return refused


def _nothing(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


# -- the answer ---------------------------------------------------------------------------------------------


def _response(status: int, headers: list[tuple[bytes, bytes]], content: Any) -> HttpResponseBase:
    response = (
        HttpResponse(content, status=status)
        if isinstance(content, bytes)
        else StreamingHttpResponse(content, status=status)
    )
    del response.headers["Content-Type"]
    for key, value in headers:
        response.headers[key.decode("latin-1")] = value.decode("latin-1")
    return response


class _Stream:
    """The chunks of an answer, for ASGI."""

    def __init__(self, exchange: Exchange, first: bytes) -> None:
        self._exchange = exchange
        self._first: bytes | None = first
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> bytes:
        first, self._first = self._first, None
        chunk = first if first is not None else await self._exchange.next()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    def close(self) -> None:
        """Called by Django at the end, in a thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._exchange.close)


class _BlockingStream:
    """The chunks of an answer, for WSGI."""

    def __init__(self, exchange: Exchange, first: bytes) -> None:
        self._exchange = exchange
        self._first: bytes | None = first

    def __iter__(self) -> _BlockingStream:
        return self

    def __next__(self) -> bytes:
        first, self._first = self._first, None
        chunk = first if first is not None else run(self._exchange.next)
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Called by the server at the end."""

        async def close() -> None:
            self._exchange.close()

        start(close)


@receiver(setting_changed, dispatch_uid="asyncresult.views")  # type: ignore[untyped-decorator]
def _forget(*, setting: str, **_: Any) -> None:
    """Tests override settings."""
    if setting in ("ASYNCRESULT", "TASKS"):
        _apps.clear()
