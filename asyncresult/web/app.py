"""The routes as an ASGI app of their own, to be mounted anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import BackendError, ResultDecodeError
from .documents import dump, status_document
from .endpoints import answer, refuse_unknown, stream
from .page import page, static_file
from .problems import Problem, exception_handlers, http_problem
from .settings import Settings
from .streams import Followed
from .tree import tree_document
from .urls import base_of, links_of

__all__ = ["Endpoints", "create_app"]


class Endpoints:
    """The handlers, for one set of settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        settings.are_served()

    async def _named(self, request: Request) -> Followed:
        name = request.path_params["task_id"]
        return await self._task(request, name)

    async def _task(self, request: Request, name: str) -> Followed:
        task = Followed(self.settings.handle(await self.settings.task_id(request, name)), name)
        await refuse_unknown(task.handle)
        return task

    async def _many(self, request: Request) -> list[Followed]:
        names = list(dict.fromkeys(request.query_params.getlist("id")))
        if not 1 <= len(names) <= self.settings.max_ids:
            raise Problem(400, "Which tasks?", f"Give between 1 and {self.settings.max_ids} ids: ?id=a&id=b")
        tasks = [await self._task(request, name) for name in names]
        return list({task.handle.id: task for task in tasks}.values())

    async def status(self, request: Request) -> Response:
        task = await self._named(request)
        base = base_of(request, 1)
        if _prefers_html(request.headers.get("accept", "")):
            return await self._page(request, [task], base)
        return await answer(request, task.handle, self.settings, task.name, links_of(base, task.name))

    async def events(self, request: Request) -> Response:
        return stream(request, [await self._named(request)], self.settings)

    async def events_of_many(self, request: Request) -> Response:
        return stream(request, await self._many(request), self.settings)

    async def page(self, request: Request) -> Response:
        return await self._page(request, [await self._named(request)], base_of(request, 2))

    async def page_of_many(self, request: Request) -> Response:
        return await self._page(request, await self._many(request), base_of(request, 1))

    async def _page(self, request: Request, tasks: list[Followed], base: str) -> Response:
        documents = await asyncio.gather(*(self._document(task, base) for task in tasks))
        return page(documents, base=base, revoke=self.settings.revoke, home=self.settings.home)

    async def _document(self, task: Followed, base: str) -> dict[str, Any]:
        links = links_of(base, task.name)
        try:
            meta = await task.handle.meta()
        except ResultDecodeError:  # hides no other; the component says what is wrong
            return {"id": task.name, "state": "unreadable", "ready": True, "links": links}
        return status_document(meta, task.name, reveal_errors=self.settings.reveal_errors, links=links)

    async def tree(self, request: Request) -> Response:
        task = await self._named(request)
        document = await tree_document(request, task, self.settings)
        return Response(dump(document), headers={"Cache-Control": "no-store"}, media_type="application/json")

    async def static(self, request: Request) -> Response:
        return static_file(request.path_params["name"])

    async def delete(self, request: Request) -> Response:
        """Revoke a task that has not ended, forget one that has; each only where it is switched on."""
        handle = (await self._named(request)).handle
        ready = (await handle.meta()).ready
        if not ready and self.settings.revoke:
            return await self._revoke(handle)
        if ready and self.settings.forget:
            await handle.forget()
            return Response(status_code=204)
        raise Problem(409, "The task has ended" if ready else "The task has not ended", "So this cannot be done.")

    async def revoke(self, request: Request) -> Response:
        if _is_of_another_origin(request):  # a form there could be sent with the user's cookies
            raise Problem(403, "From another site", "Pages of other sites have to use DELETE, which CORS is about.")
        return await self._revoke((await self._named(request)).handle)

    async def _revoke(self, handle: Any) -> Response:
        try:
            await handle.revoke(terminate=True)
        except BackendError as error:
            if isinstance(error, ConnectionError):
                raise
            raise Problem(501, "Nobody to reach", "Whoever runs this task cannot be reached from here.") from error
        return Response(status_code=202)


def _prefers_html(accept: str) -> bool:
    """Whether a browser's user looks, not a program: HTML is named, and JSON is not before it."""
    types = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    named = [type for type in types if type in ("text/html", "application/json")]
    return bool(named) and named[0] == "text/html"


def _is_of_another_origin(request: Request) -> bool:
    """Whether a browser sends this from a page of another site. Over plain HTTP it names nothing but the Origin."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is not None and origin.partition("://")[2] != request.headers.get("host")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return http_problem(error)


def create_app(**options: Any) -> Starlette:
    """An ASGI app that serves the state of tasks, to be mounted below a path of any app.

    Args:
        options: See :class:`.Settings`; ``authorize`` is required.

    Raises:
        TypeError, ValueError: As :class:`.Settings`.
    """
    settings = Settings(**options)
    endpoints = Endpoints(settings)

    def route(path: str, endpoint: Callable[[Request], Awaitable[Response]], method: str = "GET", **more: Any) -> Route:
        return Route(path, endpoint, methods=[method], **more)

    routes = [
        route("/events", endpoints.events_of_many),
        route("/page", endpoints.page_of_many),
        route("/static/{name}", endpoints.static),
        route("/{task_id}", endpoints.status, name=settings.route_name),
        route("/{task_id}/events", endpoints.events),
        route("/{task_id}/page", endpoints.page),
        route("/{task_id}/tree", endpoints.tree),
    ]
    if settings.revoke or settings.forget:
        routes.append(route("/{task_id}", endpoints.delete, "DELETE"))
    if settings.revoke:
        routes.append(route("/{task_id}/revoke", endpoints.revoke, "POST"))
    return Starlette(routes=routes, exception_handlers={**exception_handlers(), HTTPException: _http_error})
