"""htmx 4, htmx 2 and Datastar, the real ones, in Chromium: each goes on though its stream is cut."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncresult import Backend
from asyncresult.web import create_app
from tests.tools.packages import Package, fetch
from tests.web.conftest import serving

pytest.importorskip("playwright.async_api")
pytest.importorskip("axe_playwright_python")  # test_browser needs it, whose fixtures these are

from tests.web.test_browser import browser, pytestmark, work

from starlette.applications import Starlette  # isort: skip
from starlette.requests import Request  # isort: skip
from starlette.responses import HTMLResponse, Response  # isort: skip
from starlette.routing import Mount, Route  # isort: skip

__all__ = ["browser", "pytestmark"]

HTMX4 = Package("npm", "htmx.org", "4.0.1", "5fba65616ca148a86d377e9771bcada7f35faee3558651feb929eea425e13b3c")
HTMX2 = Package("npm", "htmx.org", "2.0.11", "165a2655073e9e6e55e307a7c74e8ebcdb76afb7701f9c16cfd106a13add408e")
SSE2 = Package("npm", "htmx-ext-sse", "2.2.4", "90b46f5ab915ba2f64e6348448c8dba509277a47e15c125ffb65754eb4f6b5dc")
# Datastar itself is not in npm in this version; StarHTML carries it.
DATASTAR = Package("pip", "starhtml", "0.7.0", "3515ac3a21f1be7ce3e724b45440ed2be20d3afcdb60f92f6ebbfaec883d3ea2")

LIBRARIES = {
    "htmx4": (
        [(HTMX4, "dist/htmx.js"), (HTMX4, "dist/ext/hx-sse.js")],
        '<div hx-sse:connect="/tasks/t1/events" hx-sse:close="done"></div>',
    ),
    "htmx2": (
        [(HTMX2, "dist/htmx.js"), (SSE2, "dist/sse.js")],
        '<div hx-ext="sse" sse-connect="/tasks/t1/events?format=htmx2" sse-swap="progress" sse-close="done"></div>',
    ),
    "datastar": (
        [(DATASTAR, "starhtml/static/js/datastar-core.js")],
        "<div id='task-t1' data-init=\"@get('/tasks/t1/events', {retry: 'always'})\"></div>",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARIES)
async def test_it_goes_on_where_it_was_and_the_end_is_the_end(
    backend: Backend, browser: Any, name: str, pytestconfig: pytest.Config
) -> None:
    files, element = LIBRARIES[name]
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("packages")
    scripts = [fetch(package, cache)[path] for package, path in files]
    kind = "module" if name == "datastar" else "text/javascript"
    tags = "".join(f'<script type="{kind}" src="/lib/{number}.js"></script>' for number in range(len(scripts)))
    observer = (
        "window.seen = new Set();"
        "const look = () => { const bar = document.querySelector('progress'); bar && seen.add(bar.value); };"
        "new MutationObserver(look).observe(document, {subtree: true, childList: true, attributes: true});"
    )

    async def home(request: Request) -> Response:
        return HTMLResponse(f"<!doctype html><html lang=en><script>{observer}</script>{tags}<body>{element}</html>")

    async def library(request: Request) -> Response:
        return Response(scripts[request.path_params["number"]], media_type="text/javascript")

    tasks = create_app(authorize=lambda request, id: True, stream_life=0.7, retry=0.1)
    routes = [Route("/", home), Route("/lib/{number:int}.js", library), Mount("/tasks", tasks)]
    async with serving(Starlette(routes=routes)) as client:
        page = await browser.new_page()
        streams: list[str] = []
        page.on("request", lambda request: streams.append(request.url) if "/events" in request.url else None)
        await page.goto(str(client.base_url))
        async with asyncio.timeout(20):
            while not streams:
                await asyncio.sleep(0.01)
        await work(backend, "t1", 20, 3.0)
        await page.wait_for_function("document.body.innerText.includes('pictures')", timeout=20_000)
        seen = await page.evaluate("[...seen]")  # those that come in one piece are shown at once
        assert seen == sorted(seen)
        assert len(seen) >= 10
        assert len(streams) >= 3, "it was cut"
        await asyncio.sleep(1.0)
        after = len(streams)
        await asyncio.sleep(1.5)
        assert len(streams) == after, "nobody comes back after the end"
        assert after <= 12
