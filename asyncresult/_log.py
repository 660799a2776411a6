"""The package's log. What a handler or a filter of the application raises ends nothing here.

The handlers of the standard library catch what their output raises, but filters, and handlers of one's own, need not. A
line about an outage is written by the very task that mends it, and by those that serve every other wait.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

__all__ = ["Log", "get_logger"]

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


class Log(_Adapter):
    """A logger whose methods raise nothing but KeyboardInterrupt and SystemExit."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        try:
            super().log(level, msg, *args, stacklevel=2, **kwargs)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if logging.raiseExceptions:  # then the standard library's handlers show it, too
                sys.excepthook(type(error), error, error.__traceback__)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, kwargs


def get_logger(name: str) -> Log:
    """The logger of that name."""
    return Log(logging.getLogger(name))
