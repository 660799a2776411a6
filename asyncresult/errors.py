"""Every error the package raises on purpose, in one tree.

::

    AsyncResultError
    ├── TaskFailed                  the task ended in FAILURE and its class cannot be rebuilt here
    │   └── TaskRevoked             the task was revoked, expired or terminated
    ├── ResultTimeout               (TimeoutError) the wait used up its budget; the task goes on
    ├── NotReady                    the handle has not learned this yet
    ├── BackendClosed               the backend was closed under the wait
    ├── CycleError                  (ValueError) a dependency graph runs in a circle
    ├── ResultEncodeError           (TypeError) a value that the format cannot hold; nothing was sent
    ├── ResultDecodeError           (ValueError) a stored record that cannot be read
    │   ├── ResultTypeError         the value was read but is not of the given ``type=``
    │   └── ResultTooLarge          the record is over ``max_result_bytes``
    └── BackendError                the store refused
        ├── BackendUnavailable      (ConnectionError) nobody answers at the address
        └── BackendPermissionError  (PermissionError) wrong credentials or a missing ACL rule

All of them survive pickling with their attributes. None of them ever holds a password.
"""

from __future__ import annotations

from typing import Any, TypeVar

__all__ = [
    "AsyncResultError",
    "BackendClosed",
    "BackendError",
    "BackendPermissionError",
    "BackendUnavailable",
    "CycleError",
    "NotReady",
    "ResultDecodeError",
    "ResultEncodeError",
    "ResultTimeout",
    "ResultTooLarge",
    "ResultTypeError",
    "TaskFailed",
    "TaskRevoked",
]

#: How much of an unreadable payload an error carries: enough to recognise it, too little to matter.
RAW_EXCERPT_BYTES = 200


def _rebuild(cls: type[AsyncResultError], args: tuple[Any, ...], state: dict[str, Any]) -> AsyncResultError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class AsyncResultError(Exception):
    """Base of every error that asyncresult raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses take keyword arguments, which Exception's own pickling would lose.
        return _rebuild, (type(self), self.args, self.__dict__)


class TaskFailed(AsyncResultError):
    """The task failed with an exception that is not rebuilt as its own class here.

    Attributes:
        exc_type: Qualified name of the class that the worker recorded, e.g. ``"Outer.Nested"``.
        exc_module: Its module, or None where the writer recorded none.
        exc_args: The exception's arguments, as far as the format could carry them.
        traceback: The worker's traceback text, or None.
        task_id: The task that failed, or None.
    """

    def __init__(
        self,
        message: str = "",
        *,
        exc_type: str = "Exception",
        exc_module: str | None = None,
        exc_args: tuple[Any, ...] = (),
        traceback: str | None = None,
        task_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.exc_type = exc_type
        self.exc_module = exc_module
        self.exc_args = exc_args
        self.traceback = traceback
        self.task_id = task_id


class TaskRevoked(TaskFailed):
    """The task was revoked before or while it ran, or expired before it was started."""


class ResultTimeout(AsyncResultError, TimeoutError):
    """A wait used up its budget. The remote task is not affected.

    Attributes:
        task_id: What was waited for, or None for a join.
        timeout: The budget in seconds.
    """

    def __init__(self, message: str = "", *, task_id: str | None = None, timeout: float | None = None) -> None:
        super().__init__(message)
        self.task_id = task_id
        self.timeout = timeout


class NotReady(AsyncResultError):
    """The handle has not learned a result yet: await it first."""


class BackendClosed(AsyncResultError):
    """The backend was closed, before the wait began or under it."""


class CycleError(AsyncResultError, ValueError):
    """A dependency graph has no topological order, because it runs in a circle."""


class ResultEncodeError(AsyncResultError, TypeError):
    """A value cannot be stored in the configured format, or is more than the server takes. Nothing was stored.

    Attributes:
        path: Where the value sits, e.g. ``"result['rows'][3]"``.
    """

    def __init__(self, message: str = "", *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class ResultDecodeError(AsyncResultError, ValueError):
    """A stored or published record cannot be read.

    Attributes:
        task_id: The task whose key held it.
        raw: The first bytes of it (at most 200).
    """

    def __init__(self, message: str = "", *, task_id: str | None = None, raw: bytes = b"") -> None:
        super().__init__(message)
        self.task_id = task_id
        self.raw: bytes = bytes(raw[:RAW_EXCERPT_BYTES])


class ResultTypeError(ResultDecodeError):
    """The value was read, but it is not of the type that the handle expects."""


class ResultTooLarge(ResultDecodeError):
    """The record, or what it decompresses to, is over the backend's ``max_result_bytes``."""


class BackendError(AsyncResultError):
    """The store answered with an error that a retry will not mend."""


class BackendUnavailable(BackendError, ConnectionError):
    """Nobody answers at the backend's address, or the connection broke too often."""


class BackendPermissionError(BackendError, PermissionError):
    """The store refuses the credentials, or its access rules lack one that is needed."""


ErrorT = TypeVar("ErrorT", bound=AsyncResultError)


def copy_error(error: ErrorT) -> ErrorT:
    """The same error once more, without a traceback: everyone for whom it is raised gets an instance of their own."""
    twin = type(error).__new__(type(error), *error.args)
    twin.args = error.args
    twin.__dict__.update(error.__dict__)
    twin.__cause__ = error.__cause__
    if notes := getattr(error, "__notes__", None):
        twin.__notes__ = list(notes)
    return twin


def add_note(error: BaseException, note: str) -> None:
    """Add a note to anybody's error. It is worth more than the note, which a frozen dataclass takes none of."""
    try:
        error.add_note(note)
    except Exception:
        pass
