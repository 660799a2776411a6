"""What an ASGI server serves: Django's application, in a lifespan that closes the connections at its end."""

from __future__ import annotations

import os
from typing import Any

from django.core.asgi import get_asgi_application

import asyncresult

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.integrations.django_project.settings")
django = get_asgi_application()

from .celery import app as celery_app  # noqa: E402 - after Django is set up


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "lifespan":
        await django(scope, receive, send)
        return
    await receive()
    async with asyncresult.connect(celery_app):
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})
