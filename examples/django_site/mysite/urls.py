from django.urls import include, path
from shop import views

urlpatterns = [
    path("start", views.start),
    path("total", views.total),
    path("tasks/", include("asyncresult.integrations.django.urls")),
]
