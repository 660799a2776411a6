"""Requests that the OpenAPI description allows, and some that it does not, made up by schemathesis."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from asyncresult import Backend
from asyncresult.web.fastapi import router
from tests.web.conftest import put_raw, serving

schemathesis = pytest.importorskip("schemathesis")
pytest.importorskip("fastapi")

from fastapi import FastAPI  # noqa: E402

EXAMPLES = 5
"""For each route and kind of data."""


def try_all(base: str, description: dict[str, Any]) -> int:
    """How many routes there were; each answered as it is described."""
    schema = schemathesis.openapi.from_dict(description)
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:

            @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), database=None)
            @given(case=operation.as_strategy(generation_mode=mode))
            def answers_as_described(case: Any) -> None:
                response = case.call(base_url=base, timeout=20)
                assert response.status_code != 500
                case.validate_response(response, excluded_checks=[schemathesis.checks.not_a_server_error])

            answers_as_described()
        tried += 1
    return tried


def described(**options: Any) -> tuple[FastAPI, list[dict[str, Any]]]:
    """An app with all routes, and their descriptions."""
    app = FastAPI()
    app.include_router(router(revoke=True, forget=True, **options), prefix="/tasks")
    return app, [operation for path in app.openapi()["paths"].values() for operation in path.values()]


def test_only_what_is_sent_is_described() -> None:
    _, operations = described(authorize=lambda request, id: True)
    for responses in (operation["responses"] for operation in operations):
        assert "422" not in responses, "FastAPI's own"
        problems = [response for status, response in responses.items() if status >= "4"]
        assert problems
        assert all(list(problem["content"]) == ["application/problem+json"] for problem in problems)


async def test_every_route_answers_as_it_is_described(backend: Backend) -> None:
    await put_raw(backend, "0", b"\xff")
    app, operations = described(authorize=lambda request, id: len(id) < 6, stream_life=0.02, max_wait=0.02)
    for operation in operations:
        del operation["responses"]["4XX"]  # each refusal is described by its number too
    async with serving(app) as client:
        assert await asyncio.to_thread(try_all, str(client.base_url), app.openapi()) == len(operations) == 8
