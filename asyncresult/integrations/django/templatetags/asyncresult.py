"""``{% load asyncresult %}{% task_progress task_id %}``"""

from __future__ import annotations

from typing import Any

from django import template
from django.apps import apps
from django.templatetags.static import static
from django.urls import reverse
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString

__all__ = ["register", "task_progress"]

register: Any = template.Library()


@register.simple_tag  # type: ignore[untyped-decorator]
def task_progress(task: Any, label: str = "") -> SafeString:
    """The progress of a task, live: the component ``<task-progress>``, and the script that it needs.

    Args:
        task: A task's id; or what has one as ``id``: a task result, a handle.
        label: What the task does, for those who do not see the page.
    """
    source = reverse("asyncresult:status", args=[getattr(task, "id", task)])
    return format_html(
        '<script type="module" src="{}"></script><task-progress src="{}"{}></task-progress>',
        _script(),
        source,
        format_html(' label="{}"', escape(label)) if label else "",  # a text of the template counts as safe HTML
    )


def _script() -> str:
    if apps.is_installed("django.contrib.staticfiles"):
        return str(static("asyncresult/task-progress.js"))
    return str(reverse("asyncresult:static", args=["task-progress.js"]))
