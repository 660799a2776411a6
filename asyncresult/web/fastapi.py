"""The routes as a router of FastAPI, with models for OpenAPI. Needs FastAPI, which no extra brings: the app does."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..backend import Backend, current_backend
from .app import Endpoints
from .problems import MEDIA_TYPE, Problem, problem_of
from .settings import Settings

__all__ = ["Links", "ProblemDocument", "Progress", "Results", "TaskError", "TaskStatus", "TaskTree", "router"]


class Progress(BaseModel):
    """How far a task is."""

    current: float
    total: float
    percent: float
    description: str | None = None


class TaskError(BaseModel):
    """Why a task failed."""

    type: str = "about:blank"
    title: str
    detail: str | None = None


class Links(BaseModel):
    """Where to go on, as paths of this host."""

    model_config: ClassVar[ConfigDict] = ConfigDict(populate_by_name=True)

    self_: str = Field(alias="self")
    events: str
    page: str


class TaskStatus(BaseModel):
    """The state of a task. ``result`` is there once it has succeeded, ``error`` once it has failed."""

    id: str
    state: str
    ready: bool
    progress: Progress | None = None
    result: Any = None
    error: TaskError | None = None
    stale: bool | None = None
    date_done: str | None = None
    links: Links | None = None


class TaskTree(BaseModel):
    """A task, or a group (then `state` is null), and what is below it."""

    id: str
    state: str | None
    children: list[TaskTree]
    more: bool | None = None


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None


def _connected() -> Backend:
    try:
        return current_backend()
    except (RuntimeError, ValueError) as error:
        raise HTTPException(503, "results are not connected") from error


Results = Annotated[Backend, Depends(_connected)]
"""A parameter of this type is the current backend: ``async def show(results: Results)``."""


class _ProblemRoute(APIRoute):
    """A route whose errors are problem documents, whatever handlers the app has."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError:
                return Problem(400, "Malformed request", "A parameter is missing or invalid.").response()
            except Exception as error:
                problem = problem_of(error)
                if problem is None:
                    raise
                return problem.response()

        return guarded


# No "model": FastAPI would describe it with the media type of the route's own answers.
_PROBLEM: dict[str, Any] = {"content": {MEDIA_TYPE: {"schema": ProblemDocument.model_json_schema()}}}
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {**_PROBLEM, "description": "Malformed task id or parameter"},
    404: {**_PROBLEM, "description": "No such task, or not yours to see"},
    502: {**_PROBLEM, "description": "Unreadable result"},
    503: {**_PROBLEM, "description": "Results unavailable; see Retry-After"},
    "4XX": {**_PROBLEM, "description": "Refused"},  # without it FastAPI adds its own 422, which is never sent
}
_EVENT = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("event", "id", "data")},
    "required": ["data"],
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"itemSchema": _EVENT}}, "description": "Server-sent events"},
    204: {"description": "The stream has ended before: do not come back"},
    406: {**_PROBLEM, "description": "Not acceptable"},
    429: {**_PROBLEM, "description": "Too many streams; see Retry-After"},
}
Form = Literal["json", "html", "htmx2", "datastar"]
# Described as the rule of _checks.py is, so that who generates requests from the description knows it.
_ID = r"^[^\x00-\x1f\x7f-\x9f]+$"
Id = Annotated[str, StringConstraints(pattern=_ID)]
TaskId = Annotated[str, Path(pattern=_ID, description="of the task, or a token for it")]


def router(**options: Any) -> APIRouter:
    """The routes of :func:`.create_app`, to be included by a FastAPI app.

    Errors of these routes are problem documents by themselves; for those of your own handlers see
    :func:`.exception_handlers`.

    Args:
        options: See :class:`.Settings`; ``authorize`` is required.

    Raises:
        TypeError, ValueError: As :class:`.Settings`.
    """
    settings = Settings(**options)
    endpoints = Endpoints(settings)
    several: Any = Query(description="of the tasks", min_length=1, max_length=settings.max_ids)
    made = APIRouter(tags=["tasks"], responses=_ERRORS, route_class=_ProblemRoute)

    @made.get("/events", responses=_STREAM, response_class=Response)
    async def events_of_many(
        request: Request,
        id: list[Id] = several,
        format: Form | None = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Follow several tasks in one stream."""
        return await endpoints.events_of_many(request)

    @made.get("/page", response_class=HTMLResponse)
    async def page_of_many(
        request: Request,
        id: list[Id] = several,
    ) -> Response:
        """The progress of several tasks, as a page."""
        return await endpoints.page_of_many(request)

    @made.get("/static/{name}", include_in_schema=False)
    async def static(request: Request, name: str) -> Response:
        """What the pages load."""
        return await endpoints.static(request)

    @made.get(
        "/{task_id}",
        name=settings.route_name,
        response_model=TaskStatus,
        responses={304: {"description": "Not modified"}, 429: {**_PROBLEM, "description": "Too many wait"}},
    )
    async def task_status(
        request: Request,
        task_id: TaskId,
        wait: Annotated[float | None, Query(ge=0, lt=1e6, description="seconds to wait for the end")] = None,
        prefer: Annotated[str | None, Header(description="wait=N, as RFC 7240")] = None,
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        """The state of a task; with `Prefer: wait=N` once it has ended, or after that time."""
        return await endpoints.status(request)

    @made.get("/{task_id}/events", responses=_STREAM, response_class=Response)
    async def task_events(
        request: Request,
        task_id: TaskId,
        format: Form | None = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Follow a task: server-sent events, resumable by `Last-Event-ID`."""
        return await endpoints.events(request)

    @made.get("/{task_id}/page", response_class=HTMLResponse)
    async def task_page(request: Request, task_id: TaskId) -> Response:
        """The progress of a task, as a page."""
        return await endpoints.page(request)

    @made.get("/{task_id}/tree", response_model=TaskTree)
    async def task_tree(request: Request, task_id: TaskId) -> Response:
        """The tasks that a task has sent, and theirs."""
        return await endpoints.tree(request)

    for route in list(made.routes):
        if isinstance(route, APIRoute):  # FastAPI answers HEAD only where a route names it
            made.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)

    if settings.revoke or settings.forget:

        @made.delete(
            "/{task_id}", status_code=204, responses={202: {"description": "Revoked"}, 409: _PROBLEM, 501: _PROBLEM}
        )
        async def delete_task(request: Request, task_id: TaskId) -> Response:
            """Revoke a task that has not ended; forget one that has."""
            return await endpoints.delete(request)

    if settings.revoke:

        @made.post(
            "/{task_id}/revoke", status_code=202, response_class=Response, responses={403: _PROBLEM, 501: _PROBLEM}
        )
        async def revoke_task(request: Request, task_id: TaskId) -> Response:
            """Keep a task from running, or end it."""
            return await endpoints.revoke(request)

    return made
