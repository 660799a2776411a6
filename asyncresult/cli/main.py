"""From the arguments to an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .parser import build_parser, run_of
from .status import CommandError, Status

if TYPE_CHECKING:
    from ..backend import Backend

__all__ = ["Defaults", "main"]


class Defaults(NamedTuple):
    """What a framework's settings say, for a command whose arguments name no place.

    Attributes:
        make_backend: Raises ValueError where it cannot be made.
        app: A Celery app, or its path.
    """

    make_backend: Callable[[], Backend]
    app: Any = None


def main(argv: Sequence[str] | None = None, *, prog: str = "asyncresult", defaults: Defaults | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments; None takes those of the process.
        prog: What the program is called in its help.
        defaults: In place of those of the environment.

    Returns: the exit status, see :class:`.status.Status`.
    """
    _open_missing_streams()
    parser = build_parser(prog)
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as ended:  # argparse has printed help, the version, or what is wrong
        return ended.code if isinstance(ended.code, int) else Status.USAGE
    if defaults is not None and not (getattr(arguments, "url", None) or getattr(arguments, "app", None)):
        arguments.make_backend, arguments.app = defaults
    _tolerate_encodings()
    try:
        status = run_of(arguments)(arguments)
        sys.stdout.flush()
        return status
    except CommandError as error:
        _say(f"asyncresult: {error}")
        return error.status
    except KeyboardInterrupt:
        return Status.INTERRUPTED
    except BrokenPipeError:  # the reader has gone (`| head`)
        _discard_output()
        return Status.SUCCESS
    except OSError as error:
        _discard_output()
        _say(f"asyncresult: the output cannot be written: {error.strerror or error}")
        return Status.USAGE


def _open_missing_streams() -> None:
    """Where a stream was closed (``>&-``), have one that leads nowhere: what is opened next must not take its place."""
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _discard_output() -> None:
    """Python would complain again when it flushes stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tolerate_encodings() -> None:
    """What the terminal's encoding lacks is escaped: a value must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _say(text: str) -> None:
    try:
        print(text, file=sys.stderr)
    except OSError:  # nobody reads stderr: nothing is left to report
        pass
