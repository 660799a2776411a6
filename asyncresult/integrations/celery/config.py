"""A backend from the configuration of a Celery app.

Celery reads its settings itself: its own backend is made, which connects nothing, and what it made of the
URL and of some thirty settings is translated. So every spelling that Celery understands is understood, and
means the same.

By the kind of result backend: Redis (:mod:`.redis`), messages (:mod:`.rpc`), anything else (:mod:`.polled`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from celery.backends.base import Backend as CelerysBackend
from celery.backends.redis import RedisBackend
from celery.backends.rpc import RPCBackend

from ...backend import Backend
from . import forks  # noqa: F401  # pyright: ignore[reportUnusedImport]
from .control import CeleryController
from .kinds import backend_class, is_polled
from .memory import make_memory, memory_url
from .notes import note_sends
from .redis import make_redis, place_of_redis
from .rpc import RpcBackend, is_rpc, replies_of
from .settings import UnknownBackendURL, accepted, known_serializers, record_settings

__all__ = ["backend_for", "backend_of", "make_backend", "once"]

_CHOICES = (
    "set result_backend to redis://, rediss://, redis+socket://, sentinel:// (or to the same with asyncresult+ in"
    " front), rpc://, or the URL or class of any other result backend of Celery's"
)


#: Options of a backend that for a store of Celery's are that store's own business.
_SETTINGS_OF_THE_STORE = ("expires", "failure_expires", "key_prefix")


def backend_of(app: Any, **options: Any) -> Backend:
    """What :func:`.app.connect` gives for an app."""
    if options:
        app._asyncresult_backend = make_backend(app, **options)
        app._asyncresult_options = options
    backend: Backend = once(app, "_asyncresult_backend", lambda: make_backend(app))
    return backend


def once(app: Any, name: str, make: Callable[[], Any]) -> Any:
    """An attribute of the app that is made at its first use, and is the same for all threads from then on.

    No lock is held while it is made: the app's own code may run then, which may send tasks, or wait for a thread
    that does. So two threads may make one each; the one that comes second is dropped, unused.
    """
    attributes: dict[str, Any] = vars(app)
    return attributes[name] if name in attributes else attributes.setdefault(name, make())


# -- making one ---------------------------------------------------------------------------------------------


def make_backend(app: Any, theirs: Any = None, /, **options: Any) -> Backend:
    """A backend of its own. Raises: as :func:`.app.connect`.

    Args:
        theirs: For this result backend of Celery's; None is that of the app's configuration.
    """
    cls, url = (type(theirs), None) if theirs is not None else backend_class(app)
    try:
        if theirs is None and is_rpc(app):
            backend = _make_rpc(app, options)
        elif (memory := memory_url(cls if theirs is None else theirs, url)) is not None:
            backend = make_memory(app, memory, options)
        elif theirs is None and is_polled(cls):
            backend = _make_polled(app, cls, url, options)
        else:
            backend = make_redis(app, _redis_backend(app, cls, url) if theirs is None else theirs, options)
    except ValueError as error:
        raise ValueError(f"{app!r} cannot be connected: {error}") from None
    backend.controllers.append(CeleryController(app))
    if backend.registers:
        note_sends(app)
    publisher: Any = vars(app).get("_asyncresult_publisher")
    if publisher is not None:
        publisher.close_with(backend)
    return backend


def _make_rpc(app: Any, options: dict[str, Any]) -> Backend:
    settings = record_settings(app.conf, RPCBackend(app=app), {})
    backend = RpcBackend(replies_of(app, make_backend), **{**settings, **options})
    if options:
        backend.replies.rules = backend
    return backend


def _make_polled(app: Any, cls: Any, url: str | None, options: dict[str, Any]) -> Backend:
    from .polled import expires_of, make_driver  # not before it is needed: databases bring their own packages

    conf = app.conf
    for option in _SETTINGS_OF_THE_STORE:
        if option in options:
            raise ValueError(f"{option} is a setting of its result backend ({cls.__name__}), and no option here")
    bson = cls.__module__ == "celery.backends.mongodb" and conf.result_serializer == "bson"
    settings: dict[str, Any] = {
        "serializer": "json" if bson else known_serializers("result_serializer", [conf.result_serializer])[0],
        "accept": accepted(conf),
        "compression": conf.get("result_compression"),
        "expires": expires_of(app),
        "result_extended": bool(conf.result_extended),
    }
    return Backend(make_driver(app, cls, url, options), **{**settings, **options})


def _redis_backend(app: Any, cls: Any, url: str | None) -> RedisBackend:
    """Celery's own backend for Redis, from the app's configuration.

    Raises:
        ValueError: It has another one, or none.
    """
    # Ours is a function, which looks at the URL first.
    if cls is not None and (not isinstance(cls, type) or issubclass(cls, RedisBackend)):
        make: Any = cls
        known_serializers("result_serializer", [app.conf.result_serializer])  # else a bare KeyError
        try:
            theirs = make(app=app, url=url)
        except UnknownBackendURL:
            raise
        except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
            # Its text may quote a part of the password.
            raise ValueError(
                "its result_backend cannot be read as a URL (percent-encode special characters in user and password),"
                f" or Celery cannot read a setting for it: result_expires, result_accept_content, redis_… or"
                f" result_backend_transport_options ({type(error).__name__})"
            ) from None
        if isinstance(theirs, RedisBackend):
            return theirs
    chosen = app.backend_cls or app.conf.result_backend
    kind = str(chosen).partition("://")[0] if chosen else "none"
    why = {
        "none": "it has no result_backend",
        "disabled": "its result_backend is disabled",
    }.get(kind, f"its result_backend ({kind}) is no result backend that Celery can make")
    raise ValueError(f"{why}; {_CHOICES}")


# -- whose result it is -------------------------------------------------------------------------------------


def backend_for(app: Any, theirs: Any) -> Backend:
    """Ours, for the result backend of Celery's that a result names: that of the app, or one for elsewhere.

    Args:
        app: The app whose result it is, unless its backend says otherwise.
        theirs: None is the app's own.

    Raises:
        ValueError: It is of a kind that is not served. As :func:`.app.connect`.
    """
    app = getattr(theirs, "app", None) or app  # AbortableTask's results name a backend, and no app
    if theirs is None:
        return backend_of(app)
    own = app.backend
    if theirs is own or _place_of(theirs) == _place_of(own):
        return backend_of(app)
    return _elsewhere(app, theirs)


def _elsewhere(app: Any, theirs: Any) -> Backend:
    """Ours, for a backend of Celery's that is not the app's own: one for each place."""
    known: dict[Hashable, Backend] = once(app, "_asyncresult_elsewhere", dict)
    place = _place_of(theirs)
    backend = known.get(place)
    if backend is None or backend.closed:
        if not isinstance(theirs, RedisBackend):
            raise ValueError(
                f"a result of {app!r} is kept in a result backend of its own, a {type(theirs).__name__}: where it is"
                " Redis, it could be waited for"
            )
        backend = known[place] = make_backend(app, theirs, **vars(app).get("_asyncresult_options", {}))
        try:
            backend_of(app).companions.append(backend)  # who enters the app's backend closes this one with it
        except ValueError:
            pass  # the app's own is not served, so nobody enters it
    return backend


def _place_of(theirs: Any) -> Hashable:
    """What is equal for two of Celery's backends that keep results in the same place.

    Kept there, since each result looks it up.

    Raises:
        ValueError: It is no result backend.
    """
    if not isinstance(theirs, CelerysBackend):
        raise ValueError(f"a result names as its backend a {type(theirs).__name__}, which is not a result backend")
    attributes: dict[str, Any] = vars(theirs)
    place: Hashable = attributes.get("_asyncresult_place")
    if place is None:
        if isinstance(theirs, RedisBackend):
            place = place_of_redis(theirs)
        elif isinstance(theirs, RPCBackend):
            place = "rpc"  # of its app, whose process it is
        else:
            place = type(theirs), attributes.get("url")
        attributes["_asyncresult_place"] = place
    return place
