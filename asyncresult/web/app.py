"""The routes as an ASGI app of their own, to be mounted anywhere."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .. import control
from ..errors import BackendError
from .endpoints import events, status
from .problems import Problem, exception_handlers
from .settings import Settings
from .urls import SETTINGS, STATUS

__all__ = ["Endpoints", "create_app"]


class Endpoints:
    """The handlers, for one set of settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    async def status(self, request: Request, task_id: str) -> Response:
        id = await self.settings.task_id(request, task_id)
        return await status(request, self.settings.handle(id), self.settings)

    async def events(self, request: Request, task_id: str) -> Response:
        id = await self.settings.task_id(request, task_id)
        return await events(request, [self.settings.handle(id)], self.settings)

    async def events_of_many(self, request: Request) -> Response:
        named = list(dict.fromkeys(request.query_params.getlist("id")))
        if not 1 <= len(named) <= self.settings.max_ids:
            raise Problem(400, "Which tasks?", f"Give between 1 and {self.settings.max_ids} ids: ?id=a&id=b")
        ids = [await self.settings.task_id(request, name) for name in named]
        return await events(request, [self.settings.handle(id) for id in ids], self.settings)

    async def delete(self, request: Request, task_id: str) -> Response:
        """Revoke a task that has not ended, forget one that has; each only where it is switched on."""
        id = await self.settings.task_id(request, task_id)
        handle = self.settings.handle(id)
        if not (await handle.meta()).ready and self.settings.revoke:
            return await self._revoke(id)
        if not self.settings.forget:
            raise Problem(405, "Not allowed", "Records are not deleted here.")
        await handle.forget()
        return Response(status_code=204)

    async def revoke(self, request: Request, task_id: str) -> Response:
        id = await self.settings.task_id(request, task_id)
        if not self.settings.revoke:
            raise Problem(405, "Not allowed", "Tasks are not revoked here.")
        return await self._revoke(id)

    async def _revoke(self, id: str) -> Response:
        try:
            await control.revoke(self.settings.handle(id).backend, [id], terminate=True)
        except BackendError as error:
            if isinstance(error, ConnectionError):
                raise
            raise Problem(501, "Nobody to reach", "Whoever runs this task cannot be reached from here.") from error
        return Response(status_code=202)

    def routes(self) -> list[Route]:
        async def named(request: Request) -> Any:
            return request.path_params["task_id"]

        async def status_route(request: Request) -> Response:
            return await self.status(request, await named(request))

        async def events_route(request: Request) -> Response:
            return await self.events(request, await named(request))

        async def delete_route(request: Request) -> Response:
            return await self.delete(request, await named(request))

        async def revoke_route(request: Request) -> Response:
            return await self.revoke(request, await named(request))

        return [
            Route("/events", self.events_of_many, methods=["GET"]),
            Route("/{task_id}", status_route, methods=["GET"], name=STATUS),
            Route("/{task_id}", delete_route, methods=["DELETE"]),
            Route("/{task_id}/events", events_route, methods=["GET"]),
            Route("/{task_id}/revoke", revoke_route, methods=["POST"]),
        ]


def create_app(**options: Any) -> Starlette:
    """An ASGI app that serves the state of tasks, to be mounted below a path of any app.

    Args:
        options: See :class:`.Settings`; ``authorize`` is required.

    Raises:
        TypeError, ValueError: As :class:`.Settings`.
    """
    settings = Settings(**options)
    app = Starlette(routes=Endpoints(settings).routes(), exception_handlers=exception_handlers())
    setattr(app, SETTINGS, settings)
    return app
