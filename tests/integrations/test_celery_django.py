"""A Django project: views wait for tasks of its Celery app, which they have sent or know by their ids."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.tools.celery_worker import CeleryWorker
from tests.tools.servers import RedisServer

pytest.importorskip("django")
pytestmark = pytest.mark.celery

# What an ASGI server does: one lifespan around many requests at once. In a process of its own, because Django's
# settings are for the whole process, and so are the threads of its sync parts.
SERVE = """
import asyncio, json
from asgiref.testing import ApplicationCommunicator
from tests.integrations.django_project.asgi import application

async def get(x, y):
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/total",
             "query_string": f"x={x}&y={y}".encode(), "headers": [], "server": ("test", 80)}
    client = ApplicationCommunicator(application, scope)
    await client.send_input({"type": "http.request"})
    assert (await client.receive_output(20))["status"] == 200
    return json.loads((await client.receive_output(20))["body"])["total"]

async def main():
    lifespan = ApplicationCommunicator(application, {"type": "lifespan"})
    await lifespan.send_input({"type": "lifespan.startup"})
    await lifespan.receive_output(20)
    print(json.dumps(await asyncio.gather(*(get(i, i) for i in range(10)))))
    await lifespan.send_input({"type": "lifespan.shutdown"})
    await lifespan.receive_output(20)

asyncio.run(main())
"""


def test_views_wait_for_tasks() -> None:
    project = "tests.integrations.django_project"
    with RedisServer() as server:
        env = {"DJANGO_BROKER": server.url(0), "DJANGO_RESULTS": server.url(1)}
        with CeleryWorker(
            broker=server.url(0),
            backend=server.url(1),
            app=f"{project}:celery_app",
            env={**env, "DJANGO_SETTINGS_MODULE": f"{project}.settings"},
        ):
            served = subprocess.run(
                [sys.executable, "-W", "error::ResourceWarning", "-c", SERVE],
                env={**os.environ, **env, "PYTHONPATH": os.pathsep.join(sys.path)},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert served.returncode == 0, served.stderr
            assert json.loads(served.stdout) == [2 * i for i in range(10)]
            assert not server.channels()

            by_id = subprocess.run(
                [sys.executable, "-m", f"{project}.checks"],
                env={
                    **os.environ,
                    **env,
                    "DJANGO_SETTINGS_MODULE": f"{project}.settings",
                    "PYTHONPATH": os.pathsep.join(sys.path),
                },
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert by_id.returncode == 0, by_id.stderr
