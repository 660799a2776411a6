"""A backend for as long as an app runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from ..backend import Backend, connect

__all__ = ["lifespan"]


def lifespan(url: Any = None, **options: Any) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Backend]]]:
    """A lifespan for Starlette and FastAPI: connects at start, closes at the end.

    ::

        app = FastAPI(lifespan=lifespan(celery_app))

    Args:
        url, options: As :func:`asyncresult.connect`: a URL, a Celery app, or None for ``$ASYNCRESULT_URL``.

    Returns:
        The lifespan; the backend is the current one meanwhile, and ``request.state.results``.
    """

    @asynccontextmanager
    async def connected(app: Any) -> AsyncGenerator[dict[str, Backend]]:
        async with connect(url, **options) as backend:
            yield {"results": backend}

    return connected
