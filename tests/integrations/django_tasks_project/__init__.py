"""A Django project whose tasks, of the tasks framework, are run by a Celery worker."""
