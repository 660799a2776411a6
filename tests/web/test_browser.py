"""In Chromium: the component and the page, with streams that are cut all the time."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from asyncresult import AsyncResult, Backend, TaskRevoked
from asyncresult.web import create_app
from asyncresult.web.dashboard import create_dashboard
from tests.web.conftest import put_raw, serving

from starlette.applications import Starlette  # isort: skip
from starlette.requests import Request  # isort: skip
from starlette.responses import HTMLResponse, Response  # isort: skip
from starlette.routing import Mount, Route  # isort: skip

playwright = pytest.importorskip("playwright.async_api")
axe = pytest.importorskip("axe_playwright_python")
AXE = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
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


def everybody(request: Request, id: str) -> bool:
    return True


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncGenerator[Any]:
    async with playwright.async_playwright() as driver:
        context = await driver.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=CHROMIUM, headless=True, args=FLAGS
        )
        yield context
        await context.close()


async def violations(page: Any) -> list[Any]:
    """What axe finds wrong with a page: rule and elements."""
    await page.evaluate(AXE)  # evaluated, not loaded: a strict Content-Security-Policy forbids scripts of others
    found = await page.evaluate("axe.run()")
    return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]]


async def screenshot(page: Any, name: str, directory: Path) -> None:
    """For the documentation with ASYNCRESULT_SCREENSHOTS=docs/images."""
    path = Path(os.environ.get("ASYNCRESULT_SCREENSHOTS", directory)) / f"{name}.png"
    await page.screenshot(path=path)
    assert path.stat().st_size > 5000


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

    tasks = create_app(authorize=everybody, stream_life=1.0, retry=0.1)
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
    app = Starlette(routes=[Mount("/tasks", create_app(authorize=everybody, revoke=True))])
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
        assert await violations(page) == []
        await screenshot(page, f"task-page-{scheme}", tmp_path)
        await backend.store_result("resize", 8, "SUCCESS")
        await page.locator("[data-id=resize][data-state=SUCCESS]").wait_for(timeout=10_000)


async def test_the_page_shows_what_a_task_has_sent(backend: Backend, browser: Any) -> None:
    children = [[["thumbnail", None], None], [["upload", None], None]]
    record = {"status": "SUCCESS", "result": "done", "traceback": None, "task_id": "album", "children": children}
    await put_raw(backend, "album", json.dumps(record).encode())
    await backend.store_result("thumbnail", 1, "SUCCESS")
    await backend.store_result("upload", OSError("x"), "FAILURE")
    async with serving(Starlette(routes=[Mount("/tasks", create_app(authorize=everybody))])) as client:
        page = await browser.new_page()
        await page.goto(f"{client.base_url}/tasks/album/page")
        await page.locator(".tree [data-state=FAILURE]").wait_for(timeout=10_000)
        assert await page.locator(".tree li").all_inner_texts() == ["thumbnail SUCCESS", "upload FAILURE"]
        assert await violations(page) == []
        await page.get_by_role("link", name="upload").click()
        await page.get_by_role("heading", name="upload").wait_for(timeout=10_000)


async def test_the_keyboard_is_enough_to_stop_a_task(backend: Backend, browser: Any) -> None:
    async def forever() -> None:
        async with backend.track("endless"):
            await asyncio.Event().wait()

    working = asyncio.create_task(forever())
    async with serving(Starlette(routes=[Mount("/tasks", create_app(authorize=everybody, revoke=True))])) as client:
        await AsyncResult("endless").until("STARTED", timeout=10)
        page = await browser.new_page()
        await page.goto(f"{client.base_url}/tasks/endless/page")
        await page.locator("[data-state=STARTED]").wait_for(timeout=10_000)
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Stop"
        assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "it is seen"
        await page.keyboard.press("Enter")
        await page.get_by_text("The task was stopped").wait_for(timeout=10_000)
        assert await page.get_by_role("button").count() == 0
    with pytest.raises(TaskRevoked):
        await working


HOST = """<!doctype html><html lang="{lang}"><meta charset=utf-8><title>Pictures</title>
<meta name="viewport" content="width=device-width"><link rel=icon href="data:,"><link rel=stylesheet href="/style.css">
<main><h1>Pictures</h1><task-progress src="/tasks/t1" label="Pictures"></task-progress></main>
<script type=module src="/tasks/static/task-progress.js"></script></html>"""
STYLE = """html { color-scheme: light dark; font: 16px system-ui; padding: 2rem; }
@media (prefers-color-scheme: dark) { html { background: #111827; color: #f3f4f6; } }"""


def component_app(lang: str = "en") -> Starlette:
    """A page with the component, under the strictest policy that lets it load."""

    async def home(request: Request) -> Response:
        policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:"
        return HTMLResponse(HOST.format(lang=lang), headers={"Content-Security-Policy": policy})

    async def style(request: Request) -> Response:
        return Response(STYLE, media_type="text/css")

    tasks = create_app(authorize=everybody, stream_life=2.0, retry=0.1)
    return Starlette(routes=[Route("/", home), Route("/style.css", style), Mount("/tasks", tasks)])


async def status_of(page: Any) -> str:
    return str(await page.locator("task-progress [part=status]").inner_text())


@pytest.mark.parametrize(("scheme", "lang"), [("light", "en"), ("dark", "de")])
async def test_the_component_in_all_states(
    backend: Backend, browser: Any, scheme: Any, lang: str, tmp_path: Path
) -> None:
    words = {"en": ("Waiting", "38 percent", "Done"), "de": ("Wartet", "38 Prozent", "Fertig")}[lang]
    async with serving(component_app(lang)) as client:
        page = await browser.new_page()
        await page.set_viewport_size({"width": 640, "height": 200})
        await page.emulate_media(color_scheme=scheme)
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        await page.goto(str(client.base_url))
        await page.locator("task-progress [part=progress]").wait_for(timeout=10_000)
        assert (await status_of(page)).startswith(words[0])
        assert await violations(page) == []
        await backend.store_result("t1", {"current": 3, "total": 8, "note": "cat.png"}, "PROGRESS")
        await page.get_by_text(words[1]).first.wait_for(timeout=10_000)
        assert await page.get_by_role("progressbar", name="Pictures").get_attribute("value") == "3"
        assert await violations(page) == []
        await screenshot(page, f"task-progress-{scheme}", tmp_path)
        await backend.store_result("t1", 8, "SUCCESS")
        await page.get_by_text(words[2]).first.wait_for(timeout=10_000)
        assert await page.get_by_role("status").inner_text() == words[2], "the end is said at once"
        assert await violations(page) == []
        assert errors == []


async def test_a_failure_is_an_alert(backend: Backend, browser: Any) -> None:
    await backend.store_result("t1", ValueError("secret"), "FAILURE")
    async with serving(component_app("de")) as client:
        page = await browser.new_page()
        await page.goto(str(client.base_url))
        await page.get_by_text("Die Aufgabe ist fehlgeschlagen").wait_for(timeout=10_000)
        assert await page.get_by_role("alert").inner_text() == "Die Aufgabe ist fehlgeschlagen"
        assert await page.get_by_role("progressbar").count() == 0
        assert await violations(page) == []


async def test_less_motion_and_forced_colours(backend: Backend, browser: Any) -> None:
    async with serving(component_app()) as client:
        page = await browser.new_page()
        await page.goto(str(client.base_url))
        bar = page.locator("task-progress [part=progress]")
        await bar.wait_for(timeout=10_000)
        animation = "bar => getComputedStyle(bar).animationName"
        assert await bar.evaluate(animation) == "move"
        await page.emulate_media(reduced_motion="reduce")
        assert await bar.evaluate(animation) == "none"
        await page.emulate_media(forced_colors="active")
        assert await bar.evaluate("bar => getComputedStyle(bar).borderStyle") == "solid", "it has an outline of its own"


@pytest.mark.parametrize("how", ["blocked", "missing"])
async def test_without_events_it_polls(backend: Backend, browser: Any, how: str) -> None:
    async with serving(component_app()) as client:
        page = await browser.new_page()
        waits: list[str] = []
        page.on("request", lambda request: waits.append(request.headers.get("prefer", "")))
        if how == "blocked":
            await page.route("**/events*", lambda route: route.abort())
        else:
            await page.add_init_script("delete window.EventSource")
        await page.goto(str(client.base_url))
        async with asyncio.timeout(20):
            while not any(waits) or not backend.stats().pending:
                await asyncio.sleep(0.01)
        await backend.store_result("t1", 8, "SUCCESS")
        await page.get_by_text("Done").first.wait_for(timeout=10_000)
        assert "wait=20" in waits


async def test_where_a_proxy_drops_prefer_it_pauses_between_polls(backend: Backend, browser: Any) -> None:
    polls: list[str] = []

    async def proxy(route: Any) -> None:
        headers = dict(route.request.headers)
        polls.append(headers.pop("prefer", ""))
        await route.continue_(headers=headers)

    async with serving(component_app()) as client:
        page = await browser.new_page()
        await page.add_init_script("delete window.EventSource")
        await page.route("**/tasks/t1", proxy)
        await page.goto(str(client.base_url))
        async with asyncio.timeout(20):
            while len(polls) < 2:
                await asyncio.sleep(0.01)
        await asyncio.sleep(1.0)
        assert polls[:2] == ["", "wait=20"]
        assert len(polls) <= 3, "one each two seconds, and not one after the other"
        await backend.store_result("t1", 8, "SUCCESS")
        await page.get_by_text("Done").first.wait_for(timeout=10_000)


async def test_the_dashboard(backend: Backend, browser: Any, tmp_path: Path) -> None:
    for number in range(3):
        await backend.store_result(f"invoice-{number}", number, "SUCCESS")
    await backend.store_result("import-users", ValueError("boom"), "FAILURE")
    await backend.store_result("resize-photos", {"current": 3, "total": 8}, "PROGRESS")
    async with serving(create_dashboard(backend)) as client:
        page = await browser.new_page()
        await page.set_viewport_size({"width": 960, "height": 520})
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        await page.goto(str(client.base_url))
        await page.get_by_text("PROGRESS 38 %").wait_for(timeout=10_000)
        assert await violations(page) == []
        await screenshot(page, "dashboard-light", tmp_path)
        await page.emulate_media(color_scheme="dark")
        assert await violations(page) == []
        await screenshot(page, "dashboard-dark", tmp_path)
        await backend.store_result("resize-photos", 8, "SUCCESS")
        await page.locator("tr[data-state=SUCCESS]", has_text="resize-photos").wait_for(timeout=10_000)
        await page.get_by_label("Task id").fill("import-users")
        await page.keyboard.press("Enter")
        await page.get_by_text("The task failed: boom").wait_for(timeout=10_000)
        await page.get_by_role("link", name="All tasks").click()
        await page.get_by_role("link", name="invoice-1").wait_for(timeout=10_000)
        assert errors == []
