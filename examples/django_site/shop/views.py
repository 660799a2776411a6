from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

import asyncresult
from asyncresult.integrations.django import handle, wait

from .tasks import fail, resize


def may_see(request: HttpRequest, task_id: str) -> bool:
    return True  # in earnest: whether the user of the session has started this task


def start(request: HttpRequest) -> HttpResponse:
    """A page with live progress; a blocking view."""
    return render(request, "shop/start.html", {"result": resize.enqueue(100)})


async def total(request: HttpRequest) -> JsonResponse:
    """Waits for tasks without holding a thread."""
    several = [await resize.aenqueue(count) for count in (1, 2, 3)]
    values = await asyncresult.gather(*map(handle, several), timeout=10)
    failed = await wait(await fail.aenqueue("no such picture"), timeout=10)
    return JsonResponse({"values": list(values), "failed": failed.errors[0].exception_class_path})
