"""Where the tasks are served, seen from any handler of the same app, and from the handlers that serve them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.routing import BaseRoute, Mount, NoMatchFound

from .settings import Settings, served_settings

__all__ = ["base_of", "find_served", "links_of"]


def links_of(base: str, name: str) -> dict[str, str]:
    """The URLs of a task, as paths of this host: ``self``, ``events`` and ``page``."""
    here = f"{base}/{quote(name, safe='')}"
    return {"self": here, "events": f"{here}/events", "page": f"{here}/page"}


def base_of(request: Request, segments: int) -> str:
    """The path below which the routes are, seen from one of them, which has so many segments of its own."""
    path, root = request.scope["path"], request.scope.get("root_path", "")
    full = path if path.startswith(f"{root}/") else root + path
    return quote(full.rsplit("/", segments)[0])


def find_served(request: Request, base: str | None) -> tuple[Settings | None, str | None]:
    """The settings of the tasks that the app of this request serves, and the path below which it does.

    Args:
        base: That path, where several parts of the app serve tasks, or where it cannot be found.
    """
    router: Any = request.scope.get("router")
    if router is None:  # not Starlette's: no routes are known to us
        served = list(served_settings())
        return served[0] if len(served) == 1 else None, None if base is None else base.rstrip("/")
    root = request.scope.get("app_root_path", request.scope.get("root_path", ""))
    for settings in served_settings():
        for prefix in ("", *_mount_names(router.routes)):
            try:
                path = router.url_path_for(f"{prefix}{settings.route_name}", task_id="-")
            except NoMatchFound:
                continue
            found = f"{root}{path}".removesuffix("/-")
            if base is None or base.rstrip("/") == found:
                return settings, found
    return None, None if base is None else base.rstrip("/")


def _mount_names(routes: Iterable[BaseRoute]) -> Iterator[str]:
    """The prefixes of the names of routes below mounts that have names."""
    for route in routes:
        if isinstance(route, Mount):
            own = f"{route.name}:" if route.name else ""
            if own:
                yield own
            yield from (own + inner for inner in _mount_names(route.routes))
