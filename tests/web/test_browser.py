"""In Chromium: the component and the page, with streams that are cut all the time."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from asyncresult import Backend
from asyncresult.web import create_app
from tests.web.conftest import serving

from starlette.applications import Starlette  # isort: skip
from starlette.requests import Request  # isort: skip
from starlette.responses import HTMLResponse, Response  # isort: skip
from starlette.routing import Mount, Route  # isort: skip

playwright = pytest.importorskip("playwright.async_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.allow_leaks,  # of the driver of the browser
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncGenerator[Any]:
    async with playwright.async_playwright() as driver:
        context = await driver.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=CHROMIUM, headless=True, args=FLAGS
        )
        yield context
        await context.close()


async def work(backend: Backend, id: str, steps: int, seconds: float) -> None:
    async with backend.track(id, history=200, progress_interval=0.001) as task:
        for step in range(1, steps + 1):
            await task.progress(step, steps, note=f"picture {step}")
            await asyncio.sleep(seconds / steps)
        task.set_result({"pictures": steps})


LISTENER = """
<!doctype html><html lang=en><title>t</title><task-progress src="/tasks/t1" label="Pictures"></task-progress>
<script type=module>
  window.seen = [];
  addEventListener("progress", (e) => { if (e.detail.progress) seen.push(e.detail.progress.current); });
  addEventListener("done", (e) => { window.result = e.detail.result; });
  await import("/tasks/static/task-progress.js");
</script>
"""


async def test_every_value_comes_once_though_the_stream_is_cut(backend: Backend, browser: Any) -> None:
    async def home(request: Request) -> Response:
        return HTMLResponse(LISTENER)

    tasks = create_app(authorize=lambda request, id: True, stream_life=1.0, retry=0.1)
    async with serving(Starlette(routes=[Route("/", home), Mount("/tasks", tasks)])) as client:
        page = await browser.new_page()
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        await page.goto(str(client.base_url))
        working = asyncio.create_task(work(backend, "t1", 40, 4.0))
        await page.wait_for_function("window.result !== undefined", timeout=20_000)
        await working
        assert await page.evaluate("seen") == list(range(1, 41))
        assert await page.evaluate("result") == {"pictures": 40}
        streams = [url for url in requests if "/events" in url]
        assert len(streams) >= 3, "it was cut"
        await asyncio.sleep(1.5)
        assert len([url for url in requests if "/events" in url]) == len(streams), "and does not come back at the end"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_shows_several_tasks(backend: Backend, browser: Any, scheme: Any, tmp_path: Path) -> None:
    app = Starlette(routes=[Mount("/tasks", create_app(authorize=lambda request, id: True, revoke=True))])
    await backend.store_result("invoice", {"pages": 12, "file": "invoice.pdf"}, "SUCCESS")
    await backend.store_result("import", ValueError("boom"), "FAILURE")
    await backend.store_result("resize", {"current": 3, "total": 8, "note": "cat.png"}, "PROGRESS")
    async with serving(app) as client:
        page = await browser.new_page()
        await page.emulate_media(color_scheme=scheme)
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        await page.goto(f"{client.base_url}/tasks/page?id=resize&id=invoice&id=import")
        await page.get_by_text("cat.png").first.wait_for(timeout=10_000)
        await page.get_by_text("invoice.pdf").first.wait_for(timeout=10_000)
        await page.get_by_text("The task failed").first.wait_for(timeout=10_000)
        assert await page.locator("[data-state=SUCCESS] .state").text_content() == "SUCCESS"
        assert errors == []
        # For the documentation: ASYNCRESULT_SCREENSHOTS=docs/images
        directory = Path(os.environ.get("ASYNCRESULT_SCREENSHOTS", tmp_path))
        await page.screenshot(path=directory / f"task-page-{scheme}.png")
        assert (directory / f"task-page-{scheme}.png").stat().st_size > 5000
        await backend.store_result("resize", 8, "SUCCESS")
        await page.locator("[data-id=resize][data-state=SUCCESS]").wait_for(timeout=10_000)
