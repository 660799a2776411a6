"""Messages that differ from one that kombu has made only in the id, the arguments and the delivery tag.

Celery and kombu take a third of a millisecond for each message, and nearly all of it to find out again what they
found for the last: routes, options, headers, properties, the queue. So a task that is sent again with the same options
gets the last message's text, with the new values in their places::

    first message (Celery, kombu) ──> template ──> second (Celery, kombu): the same? ──> used from then on
                                                                           └── no ──> Celery and kombu make each

What depends on more than that is always made by Celery: stamps, links, countdowns, groups, chords, messages of a
running task, routers that are functions, events and signals somebody has connected to, classes with methods of their
own. :class:`_Circumstances` is what a template was made in; with any change of it a new one is made.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import celery
from celery import Task as StockTask
from celery import signals
from celery._state import _task_stack
from celery.app.amqp import AMQP
from celery.app.base import Celery
from celery.app.routes import MapRoute
from celery.backends.base import Backend as StockBackend
from celery.backends.redis import RedisBackend
from celery.canvas import Signature
from celery.utils import uuid
from celery.utils.saferepr import saferepr
from kombu import serialization

from .coroutines import running_task
from .messages import Composer, Fields, Message
from .results import CeleryAsyncResult
from .waiting import Waiting

__all__ = ["Filled", "Plain", "TemplateComposer", "Templates", "is_overridden", "plain_signature"]

#: Options that are the same for each message with the same value, and so may be part of a template.
_OPTIONS = frozenset(
    (
        *("queue", "exchange", "exchange_type", "routing_key", "priority", "delivery_mode", "serializer"),
        *("ignore_result", "time_limit", "soft_time_limit", "shadow", "retry", "reply_to"),
    )
)
_CONSTANT_TYPES = (str, int, float, bool, type(None))
#: Templates that one composer keeps; a task whose options vary without end is none for them.
_MOST = 1000
#: Where Celery's code is.
_CELERY = inspect.getfile(celery).removesuffix("__init__.py")
_METHODS = ("apply_async", "delay", "AsyncResult", "shadow_name", "_get_exec_options")


class Plain(NamedTuple):
    """A task that is sent with its arguments and with options.

    Args:
        task: The task.
        args: As in ``apply_async``.
        kwargs: Likewise.
        options: Likewise.
    """

    task: Any
    args: Any
    kwargs: Any
    options: Mapping[str, Any]


#: What kombu writes the bodies of messages with.
_serialize: Any = serialization.dumps


_Signature: Any = Signature


def plain_signature(signature: Any, app: Any) -> Plain | None:
    """What a signature of a task that is known here does, if it is no canvas."""
    if type(signature) is not _Signature or not _is_unwrapped(_Signature.apply_async):
        return None
    try:
        task = signature.type
    except KeyError:  # it is sent by its name
        return None
    return Plain(task, signature.args, signature.kwargs, signature.options) if task.app is app else None


class Filled(NamedTuple):
    """A message that a template gave: the handle, the command that sends it, and what kombu's producer knew of it."""

    handle: Any
    command: Any
    message: Message


class _Circumstances(NamedTuple):
    """What a message depends on, beside the task, its arguments and options: equal as long as it gives the same."""

    code: tuple[Any, ...]
    settings: dict[str, Any]
    task: tuple[Any, ...]
    backend: tuple[Any, ...]


class _Template(NamedTuple):
    circumstances: _Circumstances
    form: Any
    message: Message
    serializer: str
    embed: Any
    levels: int | None
    handle: CeleryAsyncResult[Any]
    type: Any


class _Candidate(NamedTuple):
    """A template that has not been compared with a second message yet."""

    template: _Template


#: Of a task and options for which the second message was another than the template's.
_REFUSED = object()


class Templates:
    """The templates of one composer, whose channel has declared what their messages need.

    Args:
        app: The Celery app.
        channel: The channel of kombu's that makes its messages.
    """

    def __init__(self, app: Any, channel: Any) -> None:
        self._app = app
        self._channel = channel
        self._thread = 0
        self._known: dict[Any, Any] = {}

    def fill(self, plain: Plain) -> Filled | None:
        """The message for a call; None where Celery has to make it. (``task_send_sent_event`` is off.)

        Raises:
            TypeError: The task does not take the arguments.
            kombu.exceptions.EncodeError: They cannot be serialized.
        """
        key = _key(plain)
        template = self._known.get(key)
        if type(template) is not _Template or not _is_simple(plain) or self._is_stale(template, plain):
            return None
        task, args, kwargs = plain.task, plain.args or (), plain.kwargs or {}
        if task.typing and (check := getattr(task, "__header__", None)) is not None:
            check(*args, **kwargs)
        task_id = plain.options.get("task_id") or uuid()
        command = template.form.fill(self._fields(template, task_id, args, kwargs))
        return None if command is None else Filled(_handle(template, task_id), command, template.message)

    def learn(self, plain: Plain, commands: list[Any], messages: list[Message], handle: Any) -> None:
        """Take note of what Celery and kombu made of a call."""
        key = _key(plain)
        if key is None or self._known.get(key) is _REFUSED or not _is_simple(plain):
            return
        if len(commands) != 1 or len(messages) != 1:
            return  # the queue has just been declared, say
        if len(self._known) >= _MOST:
            self._known.clear()
        known = self._known.get(key)
        if type(known) is _Candidate and not self._is_stale(known.template, plain):
            fields = self._fields(known.template, handle.id, plain.args or (), plain.kwargs or {})
            self._known[key] = known.template if known.template.form.gives(commands, fields) else _REFUSED
        else:
            template = self._template(plain, commands, messages[0], handle)
            self._known[key] = _REFUSED if template is None else _Candidate(template)

    # -- making -------------------------------------------------------------------------------------------

    def _template(self, plain: Plain, commands: list[Any], message: Message, handle: Any) -> _Template | None:
        circumstances = _circumstances(plain.task, self._app)
        embed = message.body[2] if isinstance(message.body, tuple) and len(message.body) == 3 else None
        if not _is_celerys_own(plain.task, self._app) or not isinstance(embed, dict) or any(embed.values()):
            return None
        if message.compression or handle.__class__ is not CeleryAsyncResult or handle.parent is not None:
            return None
        form = self._channel.form(commands, handle.id)
        if form is None:
            return None
        levels = self._app.conf.get("task_repr_maxlevels")
        type = plain.task._value_type if getattr(plain.task, "convert", False) else Any
        self._thread = threading.get_ident()
        return _Template(circumstances, form, message, message.serializer, embed, levels, handle, type)

    def _is_stale(self, template: _Template, plain: Plain) -> bool:
        if self._thread != threading.get_ident():  # the name of its reply queue, and its backend, are the thread's
            self._known.clear()
            return True
        return template.circumstances != _circumstances(plain.task, self._app)

    def _fields(self, template: _Template, task_id: str, args: Any, kwargs: Any) -> Fields:
        amqp, levels = self._app.amqp, template.levels
        body = _serialize((args, kwargs, template.embed), template.serializer)[2]
        shown = _representation(args, amqp.argsrepr_maxsize, levels)
        return Fields(task_id, shown, _representation(kwargs, amqp.kwargsrepr_maxsize, levels), body)


class TemplateComposer(Composer):
    """A composer with templates of what it has made.

    Args:
        app: The Celery app.
        transport: As for :class:`.messages.Composer`.
    """

    def __init__(self, app: Any, transport: type) -> None:
        super().__init__(app, transport)
        self.templates: Templates = Templates(app, self.channel)


def _handle(template: _Template, task_id: str) -> CeleryAsyncResult[Any]:
    """The handle of another task that is sent like the template's."""
    like = template.handle
    made: CeleryAsyncResult[Any] = CeleryAsyncResult(task_id, app=like._app, theirs=like._theirs, type=template.type)
    made.ignored = like.ignored
    return made


def _representation(value: Any, most: int, levels: int | None) -> str:
    """``saferepr`` as Celery calls it, which takes longer for the plain values that most arguments are.

    Source: celery/utils/saferepr.py (5.5 to 5.7).
    """
    text = _plain_repr(value)
    if text is None or len(text) >= most:
        return str(saferepr(value, most) if levels is None else saferepr(value, most, maxlevels=levels))
    return text


def _plain_repr(value: Any) -> str | None:
    """What ``saferepr`` gives for a tuple, list or dict of plain values; None for others."""
    kind, parts = type(value), list[str]()
    if kind is dict:
        for name, part in value.items():
            key, item = _scalar_repr(name), _scalar_repr(part)
            if key is None or item is None:
                return None
            parts.append(f"{key}: {item}")
        return f"{{{', '.join(parts)}}}"
    for part in value:
        item = _scalar_repr(part)
        if item is None:
            return None
        parts.append(item)
    inner = ", ".join(parts)
    if kind is list:
        return f"[{inner}]"
    return f"({inner},)" if len(parts) == 1 else f"({inner})"


def _scalar_repr(value: Any) -> str | None:
    kind = type(value)
    if kind is str:
        escaped = value.replace("'", "\\'")
        return f"'{escaped}'"
    if kind is int or kind is float or kind is bool or value is None:
        return repr(value)
    return None


# -- what a message depends on ------------------------------------------------------------------------------


def _key(plain: Plain) -> Any:
    """The task and its options, but for the id; None where they are no constants."""
    options = plain.options
    if not options:
        return plain.task.name
    items: list[Any] = []
    for name, value in options.items():
        if name == "task_id":
            if type(value) is not str and value is not None:
                return None
        elif name not in _OPTIONS or type(value) not in _CONSTANT_TYPES:
            return None
        else:
            items.append((name, type(value), value))
    return (plain.task.name, *sorted(items, key=_name)) if items else plain.task.name


def _name(item: tuple[str, Any, Any]) -> str:
    return item[0]


def _is_simple(plain: Plain) -> bool:
    """Whether this call depends on nothing but its task, options and arguments."""
    if type(plain.args or ()) not in (tuple, list) or type(plain.kwargs or {}) is not dict:
        return False
    if _task_stack.stack or running_task() is not None:  # it will be a child
        return False
    return not (
        signals.before_task_publish.receivers or signals.after_task_publish.receivers or signals.task_sent.receivers
    )


def _circumstances(task: Any, app: Any) -> _Circumstances:
    amqp, options, local = app.amqp, task._get_exec_options(), app._local
    code = (
        *(type(task), task.apply_async, task.delay, task.AsyncResult, task.shadow_name, StockTask.apply_async),
        *(app.send_task, amqp.as_task_v2, amqp.send_task_message, amqp.router, len(amqp.router.routes)),
    )
    limits = (task.soft_time_limit, task.time_limit, task.typing, task.ignore_result, dict(options))
    return _Circumstances(code, dict(app.conf.changes), limits, (vars(local).get("backend"), app._backend_cache))


def _is_celerys_own(task: Any, app: Any) -> bool:
    """Whether all that makes the message is Celery's, or ours, and gives the same each time."""
    cls = type(task)
    if is_overridden(cls, _METHODS, StockTask) or is_overridden(type(app), ("send_task",), Celery):
        return False
    if vars(task).keys() & {*_METHODS} or "send_task" in vars(app):
        return False
    functions = (StockTask.apply_async, StockTask.delay, StockTask.shadow_name, Celery.send_task, AMQP.as_task_v2)
    if type(app.amqp) is not AMQP or not all(map(_is_unwrapped, functions)):
        return False
    if getattr(task, "_dump_pydantic_arguments", None) is not None or task._get_exec_options().get("expires"):
        return False
    if not all(type(router) is MapRoute for router in app.amqp.router.routes):
        return False
    return _is_quiet(app.backend, app)


def _is_quiet(backend: Any, app: Any) -> bool:
    """Whether a result backend does nothing when a task is sent. Celery's for Redis is replaced meanwhile."""
    if isinstance(backend, RedisBackend) and app._backend_cache is None:
        return True
    return getattr(backend.on_task_call, "__func__", None) in (StockBackend.on_task_call, Waiting.on_task_call)


def _is_unwrapped(function: Any) -> bool:
    """Whether a function of Celery's has not been replaced, by a library for tracing, say: wrappers copy its name."""
    return inspect.isfunction(function) and function.__code__.co_filename.startswith(_CELERY)


def is_overridden(cls: type, names: tuple[str, ...], stock: type) -> bool:
    """Whether a class of the application's, in front of Celery's own, has one of these methods."""
    for ancestor in cls.__mro__:
        if ancestor is stock:
            return False
        if not ancestor.__module__.startswith(__package__ or "") and any(name in vars(ancestor) for name in names):
            return True
    return False
