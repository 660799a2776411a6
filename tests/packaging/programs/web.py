"""asyncresult[web] alone: an app that answers, without FastAPI, a server or Celery."""

import asyncio
import json
from typing import Any

from support import absent

absent("celery", "fastapi", "httpx", "rich")

from asyncresult import connect
from asyncresult.web import Tokens, create_app, lifespan


async def main() -> None:
    app = create_app(authorize=lambda request, task_id: True)
    assert Tokens("secret") is not None and lifespan() is not None
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async with connect("memory://") as backend:
        await backend.store_result("t", 7, "SUCCESS")
        scope = {"type": "http", "method": "GET", "path": "/t", "headers": [], "query_string": b"", "root_path": ""}
        await app(scope, receive, send)
        assert json.loads(sent[1]["body"])["result"] == 7
        await app({**scope, "path": "/static/task-progress.js"}, receive, send)
        assert b"customElements" in sent[3]["body"], "the wheel lacks the component"


asyncio.run(main())
