"""A Django project whose async views await the results of its Celery tasks."""

from .celery import app as celery_app

__all__ = ["celery_app"]
