"""The least that a site needs."""

import os

SECRET_KEY = os.environ.get("SECRET_KEY", "for this machine only")
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]
ROOT_URLCONF = "mysite.urls"
ASGI_APPLICATION = "mysite.asgi.application"
INSTALLED_APPS = ["django.contrib.staticfiles", "shop", "asyncresult.integrations.django"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
STATIC_URL = "static/"
USE_TZ = True

# Tasks run in threads of this process. With several processes, say where all of them look: "URL": "redis://…"
TASKS = {"default": {"BACKEND": "asyncresult.integrations.django.ExecutorBackend"}}
ASYNCRESULT = {"AUTHORIZE": "shop.views.may_see"}
