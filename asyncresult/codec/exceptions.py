"""Stored exceptions to exceptions, without trusting what is stored.

Theory of operation
===================

A record names a class and its arguments. Whoever can write to Redis can write any name, so a name must not be able
to make the reader do anything:

* the module is a key of ``sys.modules`` and nothing else: nothing is imported;
* the qualified name is walked through the ``__dict__`` of that module and of its classes, read with the
  interpreter's own getters: no ``__getattr__``, property or metaclass gets a turn, and the walk never leaves a
  module for another one;
* the class has to be an :class:`Exception` which a coroutine can raise;
* the instance is made by ``__new__`` and ``__init__`` of the nearest *builtin* ancestor. They are C, and set
  ``args`` and what ``str()`` of an OSError or a UnicodeDecodeError needs. Constructors in Python do not run, so
  the attributes that they would have set are missing: who needs them lists the class (``exceptions=``);
* an exception of which ``__str__`` or ``__repr__`` fails for want of such an attribute is worse than none, because
  it breaks whoever reports it. This is tried, and is the only Python code that runs; where a class leaves both to
  its builtin ancestor, none does.

:func:`find` and :func:`make` do that, and answer None where it cannot be done.

Source: celery/backends/base.py, exception_to_python (5.7), whose safe part this is; CVE-2021-23727.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterable
from itertools import takewhile
from types import ModuleType
from typing import Any

from ..errors import AsyncResultError, TaskFailed, TaskRevoked
from ..meta import TaskMeta
from ..states import EXCEPTION_STATES, RETRY, REVOKED

__all__ = ["Exceptions", "RemoteTraceback", "encode_exception", "error_text", "printable", "safe_repr"]

#: The module and name under which Celery stores a revocation.
REVOKED_ERROR = ("celery.exceptions", "TaskRevokedError")
_WRAPPER = ("celery.utils.serialization", "UnpickleableExceptionWrapper")

# The interpreter's own getters: `vars(x)` and `x.__mro__` would ask the type of x first.
_class_dict: Callable[[type], dict[str, Any]] = type.__dict__["__dict__"].__get__
_class_mro: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_module_dict: Callable[[Any], dict[str, Any]] = vars(ModuleType)["__dict__"].__get__
_exception_dict: Callable[[BaseException], dict[str, Any]] = BaseException.__dict__["__dict__"].__get__
_set_cause: Callable[[BaseException, BaseException], None] = BaseException.__dict__["__cause__"].__set__
args_of: Callable[[BaseException], tuple[Any, ...]] = BaseException.__dict__["args"].__get__

#: By identity, because a metaclass may redefine equality and hash.
_builtins: dict[int, Any] = {
    id(cls): cls for cls in vars(builtins).values() if isinstance(cls, type) and issubclass(cls, Exception)
}
# Stop(Async)Iteration means something else to whoever runs the coroutine; the members of a group are stored as one
# text; and an error of ours that another process met would be taken for one of this process: a timeout, say.
NEVER_RAISED = (StopIteration, StopAsyncIteration, BaseExceptionGroup, AsyncResultError)


class RemoteTraceback(Exception):
    """The worker's traceback: the ``__cause__`` of what :meth:`Codec.exception` makes. Its argument is the text."""

    __module__ = "asyncresult.codec"

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""' if self.args else ""


class Exceptions:
    """Makes the exceptions that records hold, given the classes that the user has listed."""

    __slots__ = ("_listed",)

    def __init__(self, exceptions: Iterable[type[Exception]] = ()) -> None:
        self._listed: dict[tuple[str, str], type[Exception]] = {}
        for listed in exceptions:
            cls: Any = listed
            if not isinstance(cls, type) or not issubclass(cls, Exception) or issubclass(cls, NEVER_RAISED):
                raise ValueError(f"exceptions= takes Exception classes that a coroutine can raise, not {cls!r}")
            self._listed[cls.__module__, cls.__qualname__] = cls
            # The short name is all that Celery records of an exception that it could not pickle.
            self._listed.setdefault((cls.__module__, cls.__name__), cls)

    def of(self, meta: TaskMeta) -> Exception | None:
        """See :meth:`Codec.exception`."""
        if meta.status not in EXCEPTION_STATES or (meta.status == RETRY and not meta.result):
            return None
        name, module, args = read(meta.result)
        facts: dict[str, Any] = {
            "exc_type": name or "Exception",
            "exc_module": module,
            "exc_args": args,
            "traceback": meta.traceback,
            "task_id": meta.task_id,
        }
        exc: Exception | None = None
        if meta.status == REVOKED or (name == REVOKED_ERROR[1] and module in (REVOKED_ERROR[0], None)):
            exc = TaskRevoked(text_of(args) or "revoked", **facts)
        elif name is not None and module is not None:
            exc = self._rebuilt(module, name, args)
        if exc is None:
            title = ".".join(printable(part) for part in (module, name) if part) if name else ""
            parts = [part for part in (title, text_of(args)) if part]
            exc = TaskFailed(": ".join(parts) or "the worker recorded no exception", **facts)
        note = " ".join(printable(part) for part in ("task", meta.name, meta.task_id) if part)
        note += {REVOKED: " was revoked", RETRY: " is to be retried"}.get(meta.status, " failed")
        note += f" on {printable(meta.worker)}" if meta.worker else ""
        annotate(exc, note, meta.traceback)
        return exc

    def _rebuilt(self, module: str, name: str, args: tuple[Any, ...]) -> Exception | None:
        listed = self._listed.get((module, name))
        if listed is None:
            cls = find(module, name)
            return None if cls is None else make(cls, args)
        try:
            exc: Any = listed(*args)
        except Exception:
            return None
        return exc if isinstance(exc, Exception) else None


def encode_exception(exc: BaseException, storable: Callable[[Any], Any]) -> dict[str, Any]:
    """See :meth:`Codec.encode_exception`; `storable` makes something that can be stored of an argument."""
    module, name, args = type(exc).__module__, type(exc).__qualname__, args_of(exc)
    if isinstance(exc, TaskFailed) and exc.exc_module is not None:
        module, name, args = exc.exc_module, exc.exc_type, exc.exc_args
    elif isinstance(exc, TaskRevoked):
        module, name = REVOKED_ERROR
    return {"exc_type": name, "exc_message": [storable(arg) for arg in args], "exc_module": module}


def read(stored: Any) -> tuple[str | None, str | None, tuple[Any, ...]]:
    """Type, module and arguments, out of all forms that are met in records, also those of old versions."""
    record = stored
    if isinstance(stored, list):
        try:
            record = dict(stored)
        except (TypeError, ValueError):
            pass
    if not isinstance(record, dict) or not ("exc_type" in record or "exc_message" in record):
        return None, None, (stored,) if stored else ()
    name, module, args = record.get("exc_type"), record.get("exc_module"), _tuple(record.get("exc_message", ""))
    if (module, name) == _WRAPPER and len(args) >= 3:
        # The worker could not pickle the exception and stored its module, name and arguments as arguments of this.
        module, name, args = args[0], args[1], _tuple(args[2])
    return name if isinstance(name, str) and name else None, module if isinstance(module, str) else None, args


def _tuple(message: Any) -> tuple[Any, ...]:
    return tuple(message) if isinstance(message, (list, tuple)) else (message,)


def find(module: str, qualname: str) -> type[Exception] | None:
    """The exception class of that name, if its module is imported already and a coroutine can raise it."""
    found: Any = sys.modules.get(module)
    # type(x), not isinstance(x, …): that would ask x.__class__, which may be a property.
    if not issubclass(type(found), ModuleType):
        return None
    namespace = _module_dict(found)
    for name in qualname.split("."):
        found = namespace.get(name)
        if not issubclass(type(found), type):
            return None
        namespace = _class_dict(found)
    return found if issubclass(found, Exception) and not issubclass(found, NEVER_RAISED) else None


def make(cls: type[Exception], args: tuple[Any, ...]) -> Exception | None:
    """An instance of a class that :func:`find` returned, made without its constructor; None if that fails."""
    mro = _class_mro(cls)
    for base in mro:
        if issubclass(base, BaseException) and not issubclass(base, Exception) and base is not BaseException:
            return None  # also a SystemExit, or a cancellation
    in_python = list(takewhile(lambda base: id(base) not in _builtins, mro))
    builtin = _builtins[id(mro[len(in_python)])]
    if issubclass(cls, SyntaxError) and len(args) == 2:
        args = (args[0], _tuple(args[1]))  # a tuple is what the compiler gives, and a list what JSON makes of it
    try:
        exc: Exception = builtin.__new__(cls, *args)
        builtin.__init__(exc, *args)
        if any("__str__" in _class_dict(base) or "__repr__" in _class_dict(base) for base in in_python):
            _ = str(exc), repr(exc)
    except Exception:
        return None  # the arguments do not fit, or an extension module lays out its exceptions differently
    return exc


def annotate(exc: Exception, note: str, traceback: str | None) -> None:
    """Attach a note and the worker's traceback, past whatever the class has redefined."""
    if traceback:
        _set_cause(exc, RemoteTraceback(traceback))
    _exception_dict(exc).setdefault("__notes__", []).append(note)


def printable(name: object) -> str:
    """A name out of a record, fit to be put into a message: short, and without control characters."""
    text = str(name)[:200]
    return text if text.isprintable() else ascii(text)[1:-1]


def text_of(args: tuple[Any, ...]) -> str:
    """What ``str()`` of an exception with these arguments is."""
    try:
        return str(Exception(*args))
    except Exception:
        return "(arguments that cannot be shown)"


def error_text(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:300]
    except Exception:
        return type(error).__name__


def safe_repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__} object whose repr() fails>"
