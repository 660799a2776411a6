"""From the arguments to an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .parser import build_parser, run_of
from .status import CommandError, Status

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments; None takes those of the process.

    Returns: the exit status, see :class:`.status.Status`.
    """
    parser = build_parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as ended:  # argparse has printed help, the version, or what is wrong
        return ended.code if isinstance(ended.code, int) else Status.USAGE
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
    except BrokenPipeError:
        # The reader has gone (`| head`). Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Status.SUCCESS


def _tolerate_encodings() -> None:
    """What the terminal's encoding lacks is escaped: a value must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _say(text: str) -> None:
    try:
        print(text, file=sys.stderr)
    except OSError:  # nobody reads stderr: nothing is left to tell
        pass
