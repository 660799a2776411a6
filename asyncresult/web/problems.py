"""Errors as problem documents. Source: RFC 9457."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..errors import (
    BackendClosed,
    BackendError,
    ResultDecodeError,
    ResultTimeout,
)

__all__ = ["MEDIA_TYPE", "Problem", "exception_handlers", "http_problem", "problem_of"]

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """An error that a client may see.

    Args:
        status: Of HTTP.
        title: What kind of error it is; the same for all of the kind.
        detail: What to do about it. Holds nothing of others and no secret.
        retry_after: Seconds after which it is worth trying again.
    """

    def __init__(self, status: int, title: str, detail: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.detail = detail
        self.retry_after = retry_after

    @classmethod
    def not_found(cls) -> Problem:
        """The answer for what does not exist and for what may not be seen: ids cannot be probed."""
        return cls(404, "No such task", "There is no such task, or it is not yours to see.")

    def document(self) -> dict[str, Any]:
        """The members of RFC 9457, section 3.1."""
        found: dict[str, Any] = {"type": "about:blank", "title": self.title, "status": self.status}
        return {**found, "detail": self.detail} if self.detail else found

    def response(self) -> Response:
        headers = {"Cache-Control": "no-store"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(math.ceil(self.retry_after))
        return JSONResponse(self.document(), self.status, headers, media_type=MEDIA_TYPE)


def http_problem(error: HTTPException) -> Response:
    """Starlette's own errors (no such route, method not allowed) in the same form."""
    response = Problem(error.status_code, error.detail).response()
    response.headers.update(error.headers or {})
    return response


def problem_of(error: Exception) -> Problem | None:
    """The problem that an error of this package is; None for others, a task's own failure among them."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ResultTimeout):
        return Problem(504, "Not ready in time", "The task has not ended yet. Try again later.", retry_after=1)
    if isinstance(error, ResultDecodeError):
        return Problem(502, "Unreadable result", "What is stored for this task cannot be read.")
    if isinstance(error, (BackendError, BackendClosed)):
        return Problem(503, "Results unavailable", "The store of results cannot be reached now.", retry_after=2)
    return None


def exception_handlers() -> dict[Any, Callable[[Request, Any], Coroutine[Any, Any, Response]]]:
    """Handlers for the errors of this package, for handlers of one's own: 503 with Retry-After, 504 and 502.

    ::

        app = FastAPI(exception_handlers=exception_handlers())        # or Starlette(exception_handlers=…)
    """

    async def handle(request: Request, error: Exception) -> Response:
        problem = problem_of(error)
        assert problem is not None, "registered for errors that are problems"
        return problem.response()

    return dict.fromkeys((Problem, ResultTimeout, ResultDecodeError, BackendError, BackendClosed), handle)
