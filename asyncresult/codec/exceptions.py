"""Stored exceptions to exceptions and back, without trusting what is stored.

Theory of operation
===================

A record names a class and its arguments. Anyone who can write to Redis can write any name, so a name must not be able
to make the reader do anything:

* the module is a key of ``sys.modules`` and nothing else: nothing is imported;
* the qualified name is looked up in the ``__dict__`` of that module and of its classes, read with the interpreter's
  own getters: no ``__getattr__``, property or metaclass runs, and the lookup never leaves a module for another one;
* the class has to be an :class:`Exception` that a coroutine can raise;
* the instance is made by ``__new__`` and ``__init__`` of the nearest *builtin* ancestor. They are C, and set ``args``
  and what ``str()`` of an OSError or a UnicodeDecodeError needs. Constructors in Python do not run, so the attributes
  that they would have set are missing. The user lists classes that need them (``exceptions=``).

An exception that cannot be reported is worse than none, because it breaks the code that reports the failure. So
everything that ``str()``, ``repr()``, logging, traceback or pickle would use is tried first, on arguments of bounded
size and depth. Where a class leaves these methods to its builtin ancestor, none of its code runs. What C code does not
check itself (the offsets of a UnicodeError, the details of a SyntaxError) is checked here.

Where any of this fails, the exception becomes :class:`TaskFailed`.

Source: celery/backends/base.py, exception_to_python (5.7), whose safe part this is; CVE-2021-23727.
"""

from __future__ import annotations

import builtins
import concurrent.futures
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from types import ModuleType
from typing import Any, TypeVar

from ..errors import AsyncResultError, TaskFailed, TaskRevoked
from ..meta import TaskMeta
from ..states import EXCEPTION_STATES, RETRY, REVOKED

__all__ = [
    "Exceptions",
    "RemoteTraceback",
    "call_of_others",
    "encode_exception",
    "error_text",
    "printable",
    "safe_repr",
    "safe_str",
]

T = TypeVar("T")

#: The module and name under which Celery stores a revocation.
REVOKED_ERROR = ("celery.exceptions", "TaskRevokedError")
_WRAPPER = ("celery.utils.serialization", "UnpickleableExceptionWrapper")

# repr() needs a level of C stack for each level of nesting, and may be called where little is left of it.
_MAX_LEVELS = 50
#: Values among the arguments: repr() of so many takes 20 ms.
_MAX_VALUES = 100_000
#: How far a SyntaxError may point beyond its text: traceback draws a caret for each column.
_MAX_COLUMNS = 10_000
#: str() of a larger int is a ValueError (4,300 digits).
_MAX_INT_BITS = 14_000
#: How deep in other classes a class may be: a name of 10 MB may be nothing but dots.
_MAX_NESTED = 20
#: Characters of texts among them: repr() takes up to 6 ms for so many.
_MAX_CHARACTERS = 1_000_000
#: Fields of a stored exception, where it is a list of pairs.
_MAX_FIELDS = 16
_NOT_SHOWN = "(arguments that cannot be shown)"
_TOO_LONG = "(arguments that are too long to be shown)"

#: What reporting an exception calls: str(), repr(), format(), pickle.
_REPORTING = ("__str__", "__repr__", "__format__", "__reduce__", "__reduce_ex__")
#: What raising it, and every ``except`` and ``isinstance()``, uses: a class that has redefined it is not made.
_RAISING = ("__getattribute__", "__class__", "__cause__", "__context__", "__traceback__", "with_traceback")

# The interpreter's own getters: `vars(x)` and `x.__mro__` would use the type of x first.
_class_dict: Callable[[type], dict[str, Any]] = type.__dict__["__dict__"].__get__
_class_mro: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_module_dict: Callable[[Any], dict[str, Any]] = vars(ModuleType)["__dict__"].__get__
_exception_dict: Callable[[BaseException], dict[str, Any]] = BaseException.__dict__["__dict__"].__get__
_set_cause: Callable[[BaseException, BaseException], None] = BaseException.__dict__["__cause__"].__set__
_args_of: Callable[[BaseException], tuple[Any, ...]] = BaseException.__dict__["args"].__get__
_subclasses_of: Callable[[type], list[type]] = type.__dict__["__subclasses__"]

#: By identity, because a metaclass may redefine equality and hash.
_builtins: dict[int, Any] = {
    id(cls): cls for cls in vars(builtins).values() if isinstance(cls, type) and issubclass(cls, Exception)
}
# Stop(Async)Iteration means something else to the caller of a coroutine, and so does a cancelled future's error, which
# asyncio turns into a cancellation; the members of a group are stored as one text; and an error of ours that another
# process met would be taken for one of this process: a timeout, say.
_NEVER_RAISED = (
    StopIteration,
    StopAsyncIteration,
    BaseExceptionGroup,
    AsyncResultError,
    concurrent.futures.CancelledError,
)


class RemoteTraceback(Exception):
    """The worker's traceback: the ``__cause__`` of what :meth:`Codec.exception` makes. Its argument is the text."""

    __module__ = "asyncresult.codec"

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""' if self.args else ""


class Exceptions:
    """Makes the exceptions that records hold, given the classes that the user has listed."""

    __slots__ = ("_listed", "_names")

    def __init__(self, exceptions: Iterable[type[Exception]] = ()) -> None:
        self._listed: dict[int, type[Exception]] = {}
        self._names: dict[tuple[str, str], type[Exception]] = {}
        for cls in exceptions:
            listed: Any = cls
            if not isinstance(listed, type) or not _can_be_raised(listed):
                raise ValueError(f"exceptions= takes Exception classes that a coroutine can raise, not {listed!r}")
            self._listed[id(listed)] = listed
            self._names[listed.__module__, listed.__qualname__] = listed
            # The short name is all that Celery records of an exception that it could not pickle.
            self._names.setdefault((listed.__module__, listed.__name__), listed)

    def of(self, meta: TaskMeta) -> Exception | None:
        """See :meth:`Codec.exception`."""
        if meta.status not in EXCEPTION_STATES or (meta.status == RETRY and _is_empty(meta.result)):
            return None
        name, module, args = _read(meta.result)
        text = _text_of(args)
        exc: Exception | None = None
        hint = ""
        if meta.status == REVOKED or (name == REVOKED_ERROR[1] and module in (REVOKED_ERROR[0], None)):
            exc = TaskRevoked(text or "revoked", **_facts(meta, name, module, args))
        elif name is not None and module is not None and text is not None:
            exc, hint = self._rebuilt(module, name, args, too_long=_is_long(text))
        if exc is None:
            title = ".".join(printable(part) for part in (module, name) if part) if name else ""
            parts = [part for part in (title, _NOT_SHOWN if text is None else text) if part]
            message = ": ".join(parts) or "the worker recorded no exception"
            exc = TaskFailed(message, **_facts(meta, name, module, args if text is not None else (_NOT_SHOWN,)))
        note = " ".join(printable(part) for part in ("task", meta.name, meta.task_id) if part)
        note += {REVOKED: " was revoked", RETRY: " is to be retried"}.get(meta.status, " failed")
        note += f" on {printable(meta.worker)}" if meta.worker else ""
        _annotate(exc, [note, hint] if hint else [note], meta.traceback)
        return exc

    def _rebuilt(
        self, module: str, name: str, args: tuple[Any, ...], *, too_long: bool
    ) -> tuple[Exception | None, str]:
        """The exception, or None; and a hint for the user about its class."""
        found = _find(module, name)
        listed = self._names.get((module, name)) or self._covered(module, name, found)
        if listed is not None:
            return _construct(listed, args), ""
        if found is None:
            return None, ""
        in_python = list(takewhile(lambda base: id(base) not in _builtins, _class_mro(found)))
        exc = _make(found, in_python, args, too_long=too_long)
        if not any("__init__" in _class_dict(base) or "__new__" in _class_dict(base) for base in in_python):
            return exc, ""
        did = "was not called" if exc is not None else "would be needed"
        return exc, f"the constructor of {printable(name)} {did}: list the class in exceptions= to have it called"

    def _covered(self, module: str, name: str, found: type[Exception] | None) -> type[Exception] | None:
        """The class, if it is a subclass of one that is listed; also one that only its base class knows."""
        if not self._listed:
            return None
        if found is not None:
            return found if any(id(base) in self._listed for base in _class_mro(found)) else None
        for cls in _descendants(self._listed.values()):
            if cls.__module__ == module and name in (cls.__qualname__, cls.__name__) and _can_be_raised(cls):
                return cls
        return None


def _facts(meta: TaskMeta, name: str | None, module: str | None, args: tuple[Any, ...]) -> dict[str, Any]:
    return {
        "exc_type": name or "Exception",
        "exc_module": module,
        "exc_args": args,
        "traceback": meta.traceback,
        "task_id": meta.task_id,
    }


def encode_exception(exc: BaseException, storable: Callable[[Any], Any]) -> dict[str, Any]:
    """See :meth:`Codec.encode_exception`; `storable` makes something that can be stored of an argument."""
    module, name, args = type(exc).__module__, type(exc).__qualname__, _args_of(exc)
    if isinstance(exc, TaskFailed) and exc.exc_module is not None:
        module, name, args = exc.exc_module, exc.exc_type, exc.exc_args
    elif isinstance(exc, TaskRevoked):
        module, name = REVOKED_ERROR
    return {"exc_type": name, "exc_message": [storable(arg) for arg in args], "exc_module": module}


# -- reading ----------------------------------------------------------------------------------------------------


def _is_empty(stored: Any) -> bool:
    # Not the truth of a value of a registered type, whose class may answer anything.
    return stored is None or (isinstance(stored, (str, list, dict)) and not stored)


def _read(stored: Any) -> tuple[str | None, str | None, tuple[Any, ...]]:
    """Type, module and arguments, out of all forms that are met in records, also those of old versions."""
    record = stored
    # Pairs of what else there may be would cost hours: whole numbers of one hash, say.
    if isinstance(stored, list) and len(stored) <= _MAX_FIELDS and all(map(_is_field, stored)):
        record = dict(stored)
    if not isinstance(record, dict) or not ("exc_type" in record or "exc_message" in record):
        return None, None, () if _is_empty(stored) else (stored,)
    name, module, args = (
        _str(record.get("exc_type")),
        _str(record.get("exc_module")),
        _tuple(record.get("exc_message", "")),
    )
    if (module, name) == _WRAPPER and len(args) >= 3:
        # The worker could not pickle the exception and stored its module, name and arguments as arguments of this.
        module, name, args = _str(args[0]), _str(args[1]), _tuple(args[2])
    return name or None, module, args


def _is_field(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)


def _str(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _tuple(message: Any) -> tuple[Any, ...]:
    return tuple(message) if isinstance(message, (list, tuple)) else (message,)


def _text_of(args: tuple[Any, ...]) -> str | None:
    """What ``str()`` of an exception with these arguments is; None if they cannot be shown, or only at great cost.

    Of arguments that only are too long, :data:`_TOO_LONG`. A single text is shown as it is, which costs nothing.
    """
    if len(args) == 1 and type(args[0]) is str:
        return args[0]
    plain = _are_plain(args)
    if plain is None or plain is _TOO_LONG:
        return plain
    try:
        if not plain:
            call_of_others(repr, args)
        return str(Exception(*args))
    except Exception:
        return None


def _is_long(text: str) -> bool:
    """Whether arguments with this ``str()`` are more than a class of Python's is to be tried on."""
    return text is _TOO_LONG or len(text) > _MAX_CHARACTERS


def _are_plain(args: tuple[Any, ...]) -> bool | str | None:
    """Whether ``repr()`` of the arguments cannot fail; None if it would take too long or too much of the stack.

    Where it could not fail, but would be too long: :data:`_TOO_LONG`.
    """
    plain, left, characters = True, _MAX_VALUES, _MAX_CHARACTERS
    level: list[Any] = [args]
    for _ in range(_MAX_LEVELS):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, (list, tuple, set, frozenset, dict)):
                left -= len(value) * (2 if isinstance(value, dict) else 1)
                if left < 0:
                    return None
                inner += value
                if isinstance(value, dict):
                    inner += value.values()
            elif isinstance(value, (str, bytes)):
                characters -= len(value)
            elif isinstance(value, int):
                plain = plain and value.bit_length() < _MAX_INT_BITS
            elif not isinstance(value, (float, type(None))):
                plain = False
        if not inner:
            return plain if characters >= 0 else _TOO_LONG if plain else None
        level = inner
    return None


# -- rebuilding -------------------------------------------------------------------------------------------------


def _find(module: str, qualname: str) -> type[Exception] | None:
    """The exception class of that name, if its module is imported already and a coroutine can raise it."""
    found: Any = sys.modules.get(module)
    # type(x), not isinstance(x, …): that would use x.__class__, which may be a property.
    if not issubclass(type(found), ModuleType):
        return None
    namespace = _module_dict(found)
    for name in qualname.split(".", _MAX_NESTED):
        found = namespace.get(name)
        if not issubclass(type(found), type):
            return None
        namespace = _class_dict(found)
    return found if _can_be_raised(found) else None


def _can_be_raised(cls: type) -> bool:
    """Whether a coroutine can raise it, and it means nothing but that the task failed."""
    return (
        issubclass(cls, Exception)
        and not issubclass(cls, _NEVER_RAISED)
        # An exception that also is a SystemExit, or a cancellation.
        and all(
            issubclass(base, Exception) or base is BaseException or not issubclass(base, BaseException)
            for base in _class_mro(cls)
        )
    )


def _descendants(classes: Iterable[type]) -> Iterator[type]:
    seen: set[int] = set()
    left = list(classes)
    while left:
        cls = left.pop()
        if id(cls) not in seen:
            seen.add(id(cls))
            yield cls
            left += _subclasses_of(cls)


def _construct(cls: type[Exception], args: tuple[Any, ...]) -> Exception | None:
    """Call a class that the user trusts."""
    try:
        exc: Any = call_of_others(cls, *args)
    except Exception:
        return None
    if not isinstance(exc, Exception) or not _can_be_raised(type(exc)) or not _is_sound(exc):
        return None
    return exc if _can_be_reported(exc) else None


def _make(cls: type[Exception], in_python: list[type], args: tuple[Any, ...], *, too_long: bool) -> Exception | None:
    """An instance of a class that :func:`_find` returned, made without its constructor; None if that fails.

    Args:
        too_long: Methods of the class may not be tried on the arguments.
    """
    builtin = _builtins[id(_class_mro(cls)[len(in_python)])]
    if issubclass(cls, SyntaxError) and len(args) == 2:
        args = (args[0], _tuple(args[1]))  # a tuple is what the compiler gives, and a list what JSON makes of it
    try:
        exc: Exception = builtin.__new__(cls, *args)
        builtin.__init__(exc, *args)
    except Exception:
        return None  # the arguments do not fit, or an extension module lays out its exceptions differently
    if not _is_sound(exc):
        return None
    if any(name in _class_dict(base) for base in in_python for name in _RAISING):
        return None
    own = any(name in _class_dict(base) for base in in_python for name in _REPORTING)
    return exc if not own or (not too_long and _can_be_reported(exc)) else None


def _is_sound(exc: Exception) -> bool:
    """Whether the C code that shows it keeps within its data. CPython checks none of this."""
    for kind in (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError):
        if issubclass(type(exc), kind):
            # str() reads object[start] without a look at its length: foreign memory, or a crash.
            text, start, end = (kind.__dict__[name].__get__(exc) for name in ("object", "start", "end"))
            return text is None or 0 <= start <= end <= len(text)
    return not issubclass(type(exc), SyntaxError) or _has_sound_details(exc)


def _has_sound_details(exc: Exception) -> bool:
    def detail(name: str) -> Any:
        return SyntaxError.__dict__[name].__get__(exc)

    text = detail("text")
    if not all(type(value) in (str, type(None)) for value in (detail("filename"), text)):
        return False
    columns = max(len(text or ""), _MAX_COLUMNS)
    limits = {"lineno": sys.maxsize, "end_lineno": sys.maxsize, "offset": columns, "end_offset": columns}
    # The compiler itself gives -1 where it does not know.
    return all(
        value is None or (type(value) is int and -1 <= value <= limit)
        for value, limit in ((detail(name), limit) for name, limit in limits.items())
    )


def _can_be_reported(exc: Exception) -> bool:
    try:
        texts = [call_of_others(show, exc) for show in (str, repr, format)]
        reduced = call_of_others(exc.__reduce_ex__, 4)
    except Exception:
        return False
    return all(isinstance(text, str) for text in texts) and isinstance(reduced, (tuple, str))


def _annotate(exc: Exception, notes: list[str], traceback: str | None) -> None:
    """Attach notes and the worker's traceback, past whatever the class has redefined."""
    if traceback and isinstance(traceback, str):
        _set_cause(exc, RemoteTraceback(traceback))
    attributes = _exception_dict(exc)
    held = attributes.get("__notes__")
    attributes["__notes__"] = [*held, *notes] if isinstance(held, list) else notes


def call_of_others(function: Callable[..., T], *args: Any) -> T:
    """Call what is not ours because of a record: a constructor, a decoder, a validator. It raises Exceptions only.

    Anything else that it raises (a cancellation, a panic of pydantic's) would end more than the wait for that record.
    Ctrl-C and the exit of a program stay what they are.
    """
    try:
        return function(*args)
    except (Exception, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise RuntimeError(f"{type(error).__name__} was raised") from error


# -- texts ------------------------------------------------------------------------------------------------------


def printable(name: object, most: int = 200) -> str:
    """A name out of a record, fit to be put into a message: short, and without control characters."""
    text = (name if isinstance(name, str) else safe_repr(name))[:most]
    return text if text.isprintable() else ascii(text)[1:-1]


def error_text(error: Exception) -> str:
    """An error in a message. What it says may quote names out of a record."""
    try:
        return printable(f"{type(error).__name__}: {error}", 300)
    except Exception:
        return type(error).__name__


def safe_repr(value: object) -> str:
    try:
        return call_of_others(repr, value)
    except Exception:
        return f"<{type(value).__name__} object whose repr() fails>"


def safe_str(value: object) -> str:
    try:
        return call_of_others(str, value)
    except Exception:
        return f"<{type(value).__name__} object that cannot be shown>"
