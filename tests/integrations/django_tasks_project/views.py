"""Views that wait, in both kinds of function, and a page that shows progress."""

from __future__ import annotations

from typing import Any

from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import engines

import asyncresult.sync
from asyncresult.integrations.django import wait

from . import tasks

PAGE = "{% load asyncresult %}<title>{{ id }}</title>{% task_progress result label='Count <all>' %}"


def may_see(request: HttpRequest, task_id: str) -> bool:
    """It uses the database, as most will."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return bool(request.headers.get("X-User") == "ann")


async def total(request: HttpRequest) -> JsonResponse:
    result = await wait(await tasks.add.aenqueue(int(request.GET["x"]), int(request.GET["y"])), timeout=20)
    return JsonResponse({"total": result.return_value})


def total_blocking(request: HttpRequest) -> JsonResponse:
    result = tasks.add.enqueue(int(request.GET["x"]), int(request.GET["y"]))
    total = asyncresult.sync.AsyncResult(result.id).get(timeout=20)
    result.refresh()
    return JsonResponse({"total": total, "status": result.status})


def count(request: HttpRequest, number: int) -> HttpResponse:
    result: Any = tasks.count_slowly.enqueue(number)
    return HttpResponse(engines["django"].from_string(PAGE).render({"result": result, "id": result.id}))
