"""What a notebook shows: handles and sets as HTML, and a display that keeps up. A real kernel runs the page's cells in
``python3 dev package jupyter``."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from asyncresult import Backend, BackendClosed, TaskMeta
from asyncresult.integrations.jupyter import show
from asyncresult.testing import FakeWorker, memory_backend


class Shown:
    """What IPython gives for a display that can be changed."""

    def __init__(self, thing: Any) -> None:
        self.html: list[str] = [thing._repr_html_()]

    def update(self, thing: Any) -> None:
        self.html.append(thing._repr_html_())


@pytest.fixture
def displays(monkeypatch: pytest.MonkeyPatch) -> list[Shown]:
    found: list[Shown] = []

    def display(thing: Any, *, display_id: bool) -> Shown:
        found.append(Shown(thing))
        return found[-1]

    module: Any = types.ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return found


async def known(backend: Backend, say: Callable[[FakeWorker], None]) -> str:
    say(FakeWorker(backend))
    handle = backend.result("<1>")
    await handle.meta()
    html: str = handle._repr_html_()
    assert "&lt;1&gt;" in html
    assert "<script" not in html
    return html


async def test_a_handle_shows_what_it_knows() -> None:
    with memory_backend() as backend:
        assert "not known yet" in backend.result("1")._repr_html_()
        html = await known(backend, lambda worker: worker.progress("<1>", 3, 10, note="<script>"))
        assert '<progress max="10" value="3"></progress> 3 of 10 note: &lt;script&gt;' in html
        html = await known(backend, lambda worker: worker.progress("<1>", "3", float("nan")))  # type: ignore[arg-type]
        assert "<progress" not in html
        html = await known(backend, lambda worker: worker.store("<1>", "<script>", "any words"))
        assert "&lt;script&gt;" in html
    with memory_backend() as backend:
        assert "ValueError(&#x27;&lt;script" in await known(
            backend, lambda worker: worker.fail("<1>", ValueError("<script>"))
        )
    with memory_backend() as backend:
        html = await known(backend, lambda worker: worker.succeed("<1>", "<script>" + "x" * 1000))
        assert "&#x27;&lt;script&gt;xxx" in html
        assert len(html) < 500


async def test_what_cannot_be_shown_is_left_out_and_what_is_long_is_cut() -> None:
    nested: list[Any] = []
    for _ in range(sys.getrecursionlimit()):
        nested = [nested]
    with memory_backend() as backend:
        handle = backend.result("<1>")
        handle._meta = TaskMeta(task_id=handle.id, status="S" * 1000, result={"note": "n", "rest": nested})
        html = handle._repr_html_()
        assert "note: n, rest: &lt;list object that cannot be shown&gt;" in html
        assert len(html) < 600


async def test_a_set_shows_how_many_are_done() -> None:
    with memory_backend() as backend:
        worker = FakeWorker(backend)
        handles = backend.results([str(number) for number in range(60)])
        worker.succeed("1", 1)
        await handles[1].meta()
        html = handles._repr_html_()
        assert "ResultSet" in html
        assert "1 of 60 done" in html
        assert "and 10 more" in html
        assert "0 of 0 done" in backend.results([])._repr_html_()


async def test_a_display_keeps_up(displays: list[Shown]) -> None:
    with memory_backend() as backend:
        worker = FakeWorker(backend)
        display = show(backend.result("1"))
        assert display._ipython_display_() is None
        worker.progress("1", 1, 3)
        (shown,) = displays
        while "1 of 3" not in shown.html[-1]:
            await asyncio.sleep(0.01)
        for number in range(100):
            worker.progress("1", number, 100)
            await asyncio.sleep(0)
        worker.succeed("1", "done")
        await display
        assert "SUCCESS" in shown.html[-1]
        assert len(shown.html) < 50  # not for each state


async def test_displays_of_sets_and_their_end(displays: list[Shown]) -> None:
    with memory_backend() as backend:
        worker = FakeWorker(backend)
        stopped, display = show(backend.result("1")), show(backend.results(["1", "2"]))
        await asyncio.sleep(0)
        stopped.stop()
        worker.succeed("1", 1)
        worker.succeed("2", 2)
        await display
        assert "2 of 2 done" in displays[1].html[-1]
        assert "SUCCESS" not in displays[0].html[-1]
        with pytest.raises(asyncio.CancelledError):
            await stopped
        waiting = show(backend.result("3"))
        await asyncio.sleep(0)
    with pytest.raises(BackendClosed):
        await waiting
    with pytest.raises(TypeError):
        show(7)
