"""Views as Django's users write them: by a task's id, in functions of both kinds."""

from __future__ import annotations

from typing import Any

import celery.result
from django.http import HttpRequest, JsonResponse
from django.urls import path

import asyncresult
import asyncresult.sync

from .tasks import add

CLASSES: dict[str, Any] = {"celery": celery.result.AsyncResult, "asyncresult": asyncresult.sync.AsyncResult}


async def total(request: HttpRequest) -> JsonResponse:
    """Send, and await: the event loop is free all the while."""
    handle = await add.adelay(int(request.GET["x"]), int(request.GET["y"]))
    return JsonResponse({"total": await handle.get(timeout=10)})


def status(request: HttpRequest, kind: str, task_id: str) -> JsonResponse:
    """A look at a task, without waiting."""
    result = CLASSES[kind](task_id)
    if result.successful():
        text = f"done: {result.result}"
    elif result.failed():
        text = f"failed: {result.result}"
    else:
        text = f"{result.status}: {result.result}"
    return JsonResponse({"text": text, "ready": result.ready()})


def outcome(request: HttpRequest, kind: str, task_id: str) -> JsonResponse:
    """Waiting for the end, ready for a failure."""
    try:
        return JsonResponse({"value": CLASSES[kind](task_id).get(timeout=float(request.GET.get("timeout", 20)))})
    except celery.exceptions.TimeoutError:
        return JsonResponse({"error": "not yet"}, status=504)
    except ZeroDivisionError as error:
        return JsonResponse({"error": str(error)}, status=500)


async def awaited(request: HttpRequest, task_id: str) -> JsonResponse:
    """The same, without a thread."""
    try:
        return JsonResponse(
            {"value": await asyncresult.AsyncResult(task_id).get(timeout=float(request.GET.get("timeout", 20)))}
        )
    except TimeoutError:
        return JsonResponse({"error": "not yet"}, status=504)
    except ZeroDivisionError as error:
        return JsonResponse({"error": str(error)}, status=500)


urlpatterns = [
    path("total", total),
    path("status/<kind>/<task_id>", status),
    path("outcome/<kind>/<task_id>", outcome),
    path("awaited/<task_id>", awaited),
]
