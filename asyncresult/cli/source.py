"""Which backend a command talks to, and the errors of talking to it as exit statuses."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from ..backend import Backend, connect
from ..errors import BackendClosed, BackendError, BackendPermissionError, ResultDecodeError, ResultTimeout
from .output import say
from .status import CommandError, Status

__all__ = ["connected", "errors_as_statuses", "load_app", "make_backend", "one_line", "read_ids", "run"]

#: The longest text of somebody else's error that is passed on.
MOST_SHOWN = 300
URL_VARIABLE, CELERY_VARIABLE = "ASYNCRESULT_URL", "CELERY_RESULT_BACKEND"


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run a command's coroutine on a loop of its own."""
    with errors_as_statuses():
        return asyncio.run(main)


@contextmanager
def errors_as_statuses() -> Generator[None]:
    """Each kind of error that talking to a backend may raise, as one line and its exit status."""
    try:
        yield
    except ResultTimeout as error:
        raise CommandError(str(error), Status.TIMEOUT) from error
    except ResultDecodeError as error:
        raise CommandError(str(error), Status.UNREADABLE) from error
    except BackendError as error:
        if "WRONGTYPE" in str(error):
            raise CommandError(
                f"what is stored there is not the record of a task: {error}", Status.UNREADABLE
            ) from error
        raise CommandError(str(error), Status.UNREACHABLE) from error
    except BackendClosed as error:
        raise CommandError(str(error), Status.UNREACHABLE) from error


def make_backend(arguments: argparse.Namespace) -> Backend:
    """The backend that the arguments, or else the environment, name.

    Raises:
        CommandError: None is named, or it cannot be made of what is.
    """
    try:
        if arguments.url:
            return connect(arguments.url)
        if arguments.make_backend is not None:
            made: Backend = arguments.make_backend()
            return made
        if arguments.app:
            return connect(load_app(arguments.app))
        for variable in (URL_VARIABLE, CELERY_VARIABLE):
            if url := os.environ.get(variable):
                return connect(url)
    except CommandError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise CommandError(str(error)) from error
    except Exception as error:  # Celery's own, of an app whose settings it refuses
        raise CommandError(f"the app's results cannot be found: {one_line(error)}") from error
    raise CommandError(
        f"where are the results? Give --url URL, -A PROJ[:APP] of a Celery project, or set ${URL_VARIABLE}"
        f" or ${CELERY_VARIABLE}"
    )


def load_app(name: Any) -> Any:
    """The Celery app of a module, found as ``celery -A`` finds it; or an app itself.

    Raises:
        CommandError: Celery is not installed, or there is no such app.
    """
    try:
        from celery.app.utils import find_app
    except ImportError:
        raise CommandError("-A needs Celery: pip install 'asyncresult[celery]'") from None
    if not isinstance(name, str):
        return name
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script does not have the working directory there
    try:
        app = find_app(name)
    except (Exception, SystemExit) as error:  # whatever the module raises when it is imported
        module, _, attribute = name.partition(":")
        if attribute and isinstance(error, ModuleNotFoundError) and error.name == name:
            raise CommandError(
                f"cannot load the Celery app {name!r}: there is no module {module!r} here, or no {attribute!r} in it"
            ) from error
        raise CommandError(f"cannot load the Celery app {name!r}: {one_line(error)}") from error
    if not hasattr(app, "conf"):
        raise CommandError(f"cannot load the Celery app {name!r}: that is not a Celery app, but {type(app).__name__}")
    return app


@asynccontextmanager
async def connected(
    arguments: argparse.Namespace, *, to_read: bool = True, to_examine: bool = False
) -> AsyncGenerator[Backend]:
    """The backend, once it has answered. Only this first contact has a limit: a wait outlasts outages.

    Args:
        to_read: Whether results are wanted: there are stores whose results never come to another process.
        to_examine: A user who may do too little is let in: that is what is to be found out.

    Raises:
        CommandError: It does not answer in time, or has nothing for us.
    """
    log = logging.getLogger("asyncresult")
    log.addHandler(logging.NullHandler())  # what goes wrong at the first contact is said once, below
    async with make_backend(arguments) as backend:
        if to_read:
            _check_reach(backend)
        try:
            async with asyncio.timeout(arguments.connect_timeout):
                await backend.get_meta("asyncresult")  # any id: the answer counts, not what is stored
        except TimeoutError as error:
            reason = str(error) or f"no answer within {arguments.connect_timeout:g} seconds"
            if str(backend).startswith(("rediss", "valkeys", "sentinels")):
                reason += ", which may mean that the server does not speak TLS"
            if cause := backend.stats().last_error:  # a connection that is refused is tried again until then
                reason = f"{cause} (tried for {arguments.connect_timeout:g} seconds)"
            raise CommandError(f"{backend} cannot be reached: {reason}", Status.UNREACHABLE) from error
        except ResultDecodeError:
            pass
        except BackendPermissionError as error:
            if not to_examine or "NOPERM" not in str(error):
                raise
        if to_read:  # else nothing is waited for, and what goes wrong is an error of the command
            log.addHandler(_Said())
        yield backend


def _check_reach(backend: Backend) -> None:
    """Raises CommandError where no result can come to this process, which has only just begun."""
    address = str(backend)
    if address.startswith("rpc://"):
        raise CommandError(
            "results by rpc:// come to the process that sent the task only: read them there, or let the app"
            " store them (result_backend = 'redis://…')"
        )
    if address.startswith(("memory://", "cache+memory://")):
        raise CommandError(
            f"{address} is the memory of one process, and this is another one: give the URL of a server (--url redis://…)"
        )


class _Said(logging.Handler):
    """Later outages, which waits outlast, are said to the person at the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            say(record.getMessage())


def one_line(error: BaseException) -> str:
    """The class of an error and what it says, on one line."""
    text = " ".join(str(error).split())
    shown = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return shown if len(shown) <= MOST_SHOWN else f"{shown[: MOST_SHOWN - 1]}…"


def read_ids(given: list[str], check: Callable[[object], str]) -> list[str]:
    """The ids of the command line, with those of stdin in the place of ``-``; each once, in order.

    Raises:
        CommandError: There are none, or one cannot be an id.
    """
    ids: dict[str, None] = {}
    for word in given:
        for id in filter(None, (line.strip() for line in sys.stdin)) if word == "-" else [word]:
            try:
                ids[check(id)] = None
            except ValueError as error:
                raise CommandError(str(error)) from None
    if not ids:
        raise CommandError("no ids: stdin was empty")
    return list(ids)
