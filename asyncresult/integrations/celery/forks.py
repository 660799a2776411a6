"""A child of fork can use an app that another thread of its parent was configuring at that moment.

What an app computes once, its configuration above all, Celery guards with locks; :func:`.app.connect` in a thread takes
them, and in the child nobody would release them. The child gets new ones, and computes again what was not finished.

Source: kombu/utils/objects.py (``cached_property``), celery/app/base.py (``PendingConfiguration``,
``Celery._finalize_mutex``), 5.5 to 5.7.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from celery import Celery
from celery._state import _get_active_apps
from celery.app.amqp import AMQP
from celery.app.base import PendingConfiguration
from kombu.utils.objects import cached_property

__all__: list[str] = []


def _after_fork_in_child() -> None:
    apps: list[Any] = list(_get_active_apps())
    for app in apps:
        app._finalize_mutex = threading.RLock()
    for cls in {base for used in (Celery, AMQP, PendingConfiguration, *map(type, apps)) for base in used.__mro__}:
        for attribute in vars(cls).values():
            if isinstance(attribute, cached_property):
                attribute.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
