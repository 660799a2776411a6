"""A page that finds a task by its id and lists what is in the store: what ``asyncresult serve`` shows.

It is for whoever runs the tasks, not for their users: it shows everything, so a :class:`Gate` guards it.
"""

from __future__ import annotations

import asyncio
import html
import secrets
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .._checks import check_task_id
from ..backend import Backend
from ..errors import ResultDecodeError
from ..meta import TaskMeta
from .app import create_app
from .documents import dump, status_document
from .page import html_page
from .problems import Problem, exception_handlers

__all__ = ["Gate", "Listing", "create_dashboard"]

TASKS = "/tasks"
"""Where the tasks' own routes are."""


class Gate:
    """Lets in who knows the token, and requests for the hosts that the server is meant for.

    Args:
        app: What it guards.
        token: Comes once in the query, from where it becomes a cookie, or as ``Authorization: Bearer``. None for no
            such thing.
        hosts: Names by which the server is called; None for any. Without a token, a page of another site could else
            read ours, by having its own name point to this machine (DNS rebinding).
        cookie: The name of the cookie. Cookies are shared by all ports of a host, so it should name the port.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, hosts: Sequence[str] | None, cookie: str) -> None:
        self._app = app
        self._token = token
        self._hosts = hosts
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app if scope["type"] != "http" else self._answer(HTTPConnection(scope)) or self._app
        await app(scope, receive, send)

    def _answer(self, request: HTTPConnection) -> Response | None:
        """What to answer to a request that is not let in yet."""
        if self._hosts is not None and _host_name(request.headers.get("host", "")) not in self._hosts:
            return Problem(403, "Unknown host", f"This server is called {' or '.join(self._hosts)}.").response()
        if self._token is None:
            return None
        if self._is_right(request.query_params.get("token")):
            return self._remember(request)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if self._is_right(request.cookies.get(self._cookie)) or (scheme.lower() == "bearer" and self._is_right(given)):
            return None
        refused = Problem(401, "Who are you?", "Open the address that was printed when the server started.").response()
        refused.headers["WWW-Authenticate"] = "Bearer"
        return refused

    def _is_right(self, given: str | None) -> bool:
        return given is not None and secrets.compare_digest(given.encode(), (self._token or "").encode())

    def _remember(self, request: HTTPConnection) -> Response:
        """The same page without the token, which must stay neither in the history nor in a link."""
        rest = urlencode([(name, value) for name, value in request.query_params.multi_items() if name != "token"])
        response = RedirectResponse(quote(request.scope["path"]) + (f"?{rest}" if rest else ""), 303)
        response.set_cookie(self._cookie, self._token or "", httponly=True, samesite="lax")
        response.headers.update({"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
        return response


def _host_name(host: str) -> str:
    """Without the port; an IPv6 address has brackets."""
    end = host.find("]") if host.startswith("[") else host.rfind(":") - 1
    return host[: end + 1].lower() if end >= 0 else host.lower()


class Listing:
    """What is in a store, looked at no more often than each :data:`INTERVAL` seconds, however many look at it.

    Args:
        backend: The store.
    """

    INTERVAL = 1.0
    SECONDS = 2.0
    """That one look may take."""
    LOOKED_AT, SHOWN, BATCH = 1000, 100, 100

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._looking = asyncio.Lock()
        self._found: dict[str, Any] = {}
        self._looked = float("-inf")

    async def document(self) -> dict[str, Any]:
        """``{tasks, complete}``: running tasks first, then the others, the latest first. ``complete`` is false where
        there may be more.

        Raises:
            BackendError, BackendClosed: The store cannot be reached.

        Wire: SCAN and MGET, for at most 1,000 records and two seconds.
        """
        async with self._looking:
            clock = asyncio.get_running_loop().time
            if clock() - self._looked >= self.INTERVAL:
                self._found = await self._look()
                self._looked = clock()
            return self._found

    async def _look(self) -> dict[str, Any]:
        ids: list[str] = []
        rows: list[dict[str, Any]] = []
        in_time = False
        try:
            async with asyncio.timeout(self.SECONDS):
                async for id in self._backend.task_ids(limit=self.LOOKED_AT):
                    ids.append(id)
                for batch in (ids[at : at + self.BATCH] for at in range(0, len(ids), self.BATCH)):
                    rows += map(self._row, batch, await self._metas(batch))
                in_time = True
        except TimeoutError:
            if not rows:
                raise Problem(503, "Results unavailable", "The store does not answer in time.", retry_after=2) from None
        rows.sort(key=lambda row: row["date_done"] or "", reverse=True)
        rows.sort(key=lambda row: row["ready"])  # stable: the latest stays first
        return {"tasks": rows[: self.SHOWN], "complete": in_time and len(rows) < min(self.LOOKED_AT, self.SHOWN + 1)}

    async def _metas(self, ids: list[str]) -> list[TaskMeta | None]:
        """The records; None for one that cannot be read, which hides no other."""
        try:
            return list(await self._backend.get_many(ids))
        except (ResultDecodeError, ValueError):
            return [await self._meta(id) for id in ids]

    async def _meta(self, id: str) -> TaskMeta | None:
        try:
            return await self._backend.get_meta(id)
        except (ResultDecodeError, ValueError):
            return None

    def _row(self, id: str, meta: TaskMeta | None) -> dict[str, Any]:
        if meta is None:
            return {"id": id, "state": "unreadable", "ready": True, "name": None, "date_done": None, "percent": None}
        known = status_document(meta, id, reveal_errors=False)
        return {
            **{name: known[name] for name in ("id", "state", "ready")},
            "name": meta.name,
            "date_done": known.get("date_done"),
            "percent": known.get("progress", {}).get("percent"),
        }


_MAIN = """<form class="search" action="find" role="search">
<label for="id">Task id</label><input id="id" name="id" autocomplete="off" spellcheck="false" required autofocus>
<button>Show</button>
</form>
<h1>Tasks</h1>
<p class="soft" id="note" role="status"></p>
<div class="wide" tabindex="0" role="region" aria-label="Tasks"><table hidden>
<thead><tr>
<th scope="col">Id</th><th scope="col">Name</th><th scope="col">State</th><th scope="col">Ended</th>
</tr></thead><tbody></tbody>
</table></div>"""


def _everybody(request: HTTPConnection, task_id: str) -> bool:
    """Who has come through the gate may see everything."""
    return True


def create_dashboard(
    backend: Backend,
    *,
    revoke: bool = False,
    token: str | None = None,
    hosts: Sequence[str] | None = None,
    cookie: str = "asyncresult",
) -> Starlette:
    """The app.

    Args:
        backend: Whose tasks are shown, with their errors.
        revoke: Whether there are buttons that revoke.
        token, hosts, cookie: See :class:`Gate`.
    """
    listing = Listing(backend)

    async def home(request: Request) -> Response:
        main = f'{_MAIN}\n<p class="soft">{html.escape(str(backend))}</p>'
        return html_page("Tasks", main, base=TASKS, script="dashboard.js")

    async def find(request: Request) -> Response:
        try:
            id = check_task_id(request.query_params.get("id", "").strip())
        except ValueError:
            return RedirectResponse("/", 303)
        if "/" in id:
            raise Problem(400, "Malformed task id", "An id with a slash in it has no page.")
        return RedirectResponse(f"{TASKS}/{quote(id, safe='')}/page", 303)

    async def tasks(request: Request) -> Response:
        document = await listing.document()
        return Response(dump(document), headers={"Cache-Control": "no-store"}, media_type="application/json")

    shown = create_app(backend=backend, authorize=_everybody, revoke=revoke, reveal_errors=True, home="/")
    return Starlette(
        routes=[Route("/", home), Route("/find", find), Route("/list", tasks), Mount(TASKS, shown)],
        middleware=[Middleware(Gate, token=token, hosts=hosts, cookie=cookie)],
        exception_handlers=exception_handlers(),
    )
