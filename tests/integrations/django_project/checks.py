"""The views by a task's id, asked as tests of a project ask them. Run as a program: settings are for the process."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import django

django.setup()

from django.test import AsyncClient, Client  # noqa: E402 - after Django is set up

from tests.integrations.django_project.tasks import divide, sleep  # noqa: E402


def by_functions_that_block(kind: str) -> None:
    def ask(what: str, id: str, **query: Any) -> Any:
        return Client().get(f"/{what}/{kind}/{id}", query).json()

    good, bad, unknown = divide.delay(3, 2).id, divide.delay(3, 0).id, str(uuid.uuid4())
    assert ask("outcome", good) == {"value": 1.5}
    assert ask("outcome", bad) == {"error": "division by zero"}
    assert ask("outcome", unknown, timeout=0.1) == {"error": "not yet"}
    assert ask("status", good) == {"text": "done: 1.5", "ready": True}
    assert ask("status", bad) == {"text": "failed: division by zero", "ready": True}
    assert ask("status", unknown) == {"text": "PENDING: None", "ready": False}


async def by_coroutines() -> None:
    client = AsyncClient()
    slow, good, bad = sleep.delay(1).id, divide.delay(3, 2).id, divide.delay(3, 0).id
    answers = await asyncio.gather(
        client.get(f"/awaited/{slow}?timeout=0.05"), *(client.get(f"/awaited/{id}") for id in (good, bad))
    )
    assert [answer.json() for answer in answers] == [
        {"error": "not yet"},
        {"value": 1.5},
        {"error": "division by zero"},
    ]


if __name__ == "__main__":
    by_functions_that_block("celery")
    by_functions_that_block("asyncresult")
    asyncio.run(by_coroutines())
