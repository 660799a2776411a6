"""Where the tasks are served, seen from any handler of the same app."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.routing import Mount, NoMatchFound

from .settings import Settings

__all__ = ["SETTINGS", "STATUS", "links_of", "settings_of"]

STATUS = "asyncresult-status"
"""The name of the route of a task's status."""
SETTINGS = "asyncresult_web"
"""The attribute of a status endpoint, or of a mounted app, that holds its settings."""


def links_of(request: Request, id: str, base: str | None = None) -> dict[str, str]:
    """The URLs of a task, as paths of this host: ``self``, ``events`` and ``page``.

    Raises:
        RuntimeError: It cannot be found where tasks are served.
    """
    settings = settings_of(request)
    name = settings.name_of(request, id)
    here = base.rstrip("/") + f"/{quote(name, safe='')}" if base is not None else _path(request, name)
    return {"self": here, "events": f"{here}/events", "page": f"{here}/page"}


def _path(request: Request, name: str) -> str:
    app: Any = request.scope.get("asyncresult_root") or request.app
    root = request.scope.get("app_root_path", request.scope.get("root_path", ""))
    for found in _names(app):
        try:
            return f"{root}{app.url_path_for(found, task_id=name)}"
        except NoMatchFound:
            continue
    raise RuntimeError(
        "nothing serves tasks here: mount asyncresult.web.create_app(…), include asyncresult.web.fastapi.router(…),"
        " or give base="
    )


def _names(app: Any) -> list[str]:
    mounts = [route.name for route in app.routes if isinstance(route, Mount) and hasattr(route.app, SETTINGS)]
    return [STATUS, *(f"{name}:{STATUS}" for name in mounts)]


def settings_of(request: Request) -> Settings:
    """The settings of the tasks that are served in the app of this request."""
    for route in request.app.routes:
        for place in (getattr(route, "endpoint", None), getattr(route, "app", None)):
            settings = getattr(place, SETTINGS, None)
            if isinstance(settings, Settings):
                return settings
    return Settings(authorize=lambda request, id: False)
