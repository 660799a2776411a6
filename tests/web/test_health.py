"""The readiness probe."""

from __future__ import annotations

import httpx

import asyncresult
from asyncresult import Backend
from asyncresult.web import healthz

from starlette.applications import Starlette  # isort: skip
from starlette.routing import Route  # isort: skip


async def probe() -> httpx.Response:
    app = Starlette(routes=[Route("/healthz", healthz)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.get("/healthz")


async def test_a_store_that_answers(backend: Backend) -> None:
    async with backend:
        answer = await probe()
    assert answer.status_code == 200
    assert answer.json()["ok"] is True
    assert answer.json()["latency"] >= 0


async def test_nobody_there_and_nothing_said_about_it() -> None:
    async with asyncresult.connect("redis://user:secret@127.0.0.1:1/0?retry=0"):
        answer = await probe()
    assert answer.status_code == 503
    assert answer.json() == {"ok": False, "connected": False, "latency": None}


async def test_nothing_is_connected() -> None:
    assert (await probe()).status_code == 503
