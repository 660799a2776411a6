from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.urls import path

from .tasks import add


async def total(request: HttpRequest) -> JsonResponse:
    """Send, and await: the event loop is free all the while."""
    handle = await add.adelay(int(request.GET["x"]), int(request.GET["y"]))
    return JsonResponse({"total": await handle.get(timeout=10)})


urlpatterns = [path("total", total)]
