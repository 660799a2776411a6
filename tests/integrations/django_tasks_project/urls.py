from __future__ import annotations

from django.urls import include, path

from . import views

urlpatterns = [
    path("total", views.total),
    path("total_blocking", views.total_blocking),
    path("count/<int:number>", views.count),
    path("jobs/", include("asyncresult.integrations.django.urls")),
]
