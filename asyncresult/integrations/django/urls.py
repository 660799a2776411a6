"""The URLs of tasks, for ``path("tasks/", include("asyncresult.integrations.django.urls"))``.

What they answer is what :mod:`asyncresult.web` answers. Who may see a task is said by ``ASYNCRESULT["AUTHORIZE"]``.
"""

from __future__ import annotations

from typing import Any

from django.urls import path

from .views import serve

__all__ = ["app_name", "urlpatterns"]

app_name = "asyncresult"
# Behind each the number of its own segments: what is in front of them is where the URLs are included.
urlpatterns: list[Any] = [
    path("events", serve, {"segments": 1}, name="events_of_many"),
    path("page", serve, {"segments": 1}, name="page_of_many"),
    path("static/<str:name>", serve, {"segments": 2}, name="static"),
    path("<str:task_id>", serve, {"segments": 1}, name="status"),
    path("<str:task_id>/events", serve, {"segments": 2}, name="events"),
    path("<str:task_id>/page", serve, {"segments": 2}, name="page"),
    path("<str:task_id>/tree", serve, {"segments": 2}, name="tree"),
    path("<str:task_id>/revoke", serve, {"segments": 2}, name="revoke"),
]
