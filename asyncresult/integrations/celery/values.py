"""Values of the annotated type: what ``@task(app, convert=True)`` does at both ends.

The worker stores what a task returns as plain JSON values; the handle makes them what the task's annotation says. So
``-> Report`` gives a Report, and ``-> tuple[int, int]`` a tuple, as the types promise.
"""

from __future__ import annotations

import datetime
import decimal
import functools
import inspect
import typing
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
from celery._state import get_current_task

__all__ = ["returned_type", "store_plain_values"]

#: What Celery's serializers write themselves, in a form of which the same is read.
_STORED = (bytes, datetime.datetime, datetime.date, datetime.time, decimal.Decimal, uuid.UUID)


def returned_type(run: Any) -> Any:
    """What the function of a task says that it returns; Any where it says nothing.

    Raises:
        NameError: An annotation names what cannot be found.
    """
    hints = typing.get_type_hints(inspect.unwrap(run), include_extras=True)
    return hints.get("return", Any)


def store_plain_values(cls: Any, run: Any) -> None:
    """Have ``cls.run`` return what can be stored, where a worker calls it. Called as a function it is as it was."""
    body: Callable[..., Any] = run.__func__ if isinstance(run, staticmethod) else run

    @functools.wraps(body)
    def plain(*args: Any, **kwargs: Any) -> Any:
        value = body(*args, **kwargs)
        task = get_current_task()
        return value if task is None or task.request.called_directly or task.request.is_eager else _plain(value)

    cls.run = staticmethod(plain) if isinstance(run, staticmethod) else plain


def _plain(value: Any) -> Any:
    try:
        return msgspec.to_builtins(value, builtin_types=_STORED, str_keys=True, enc_hook=_plain_model)
    except TypeError:
        return value  # the serializer may know more types, and says what it does not know


def _plain_model(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)  # pydantic's
    if not callable(dump):
        raise TypeError(f"no plain form of {type(value).__name__} is known")
    return dump(mode="json")
