"""Which value in a document cannot be stored, for an error that names it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .exceptions import error_text, safe_repr

__all__ = ["Search"]

#: How deep the search goes; also see pieces.MAX_LEVELS.
SEARCHED_LEVELS = 200


class Search:
    """A search that tries to store each part by itself.

    Args:
        dumps: The serializer, which raises for what it cannot store.
        attributes: Whether it stores what ``__json__()`` returns for an object: the search goes on in that.
    """

    def __init__(self, dumps: Callable[[Any], object], *, attributes: bool) -> None:
        self._dumps = dumps
        self._attributes = attributes

    def culprit(self, document: Any) -> tuple[str, str]:
        """Where in a document is what cannot be stored, and why not; without a reason if all can be."""
        return self._in(document, "", ())

    def _in(self, value: Any, path: str, outer: tuple[int, ...], *, of_object: bool = False) -> tuple[str, str]:
        if id(value) in outer:
            return path, "it contains itself"
        if len(outer) > SEARCHED_LEVELS:
            return re.split(r"[.[]", path)[0], "it is nested too deeply"
        outer = (*outer, id(value))
        try:
            if isinstance(value, dict):
                for key in value:
                    if problem := self._problem({key: None}):
                        return path, f"the key {safe_repr(key)}: {problem}"
                items = [(_member(path, key, of_object), item) for key, item in value.items()]
            elif isinstance(value, (list, tuple)):
                items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
            else:
                if (problem := self._problem(value)) and self._attributes and hasattr(value, "__json__"):
                    where, why = self._in(value.__json__(), path, outer, of_object=True)
                    return (where, why) if why else (path, problem)
                return path, problem
            for where, item in items:
                where, why = self._in(item, where, outer)
                if why:
                    return where, why
        except Exception as error:
            return path, error_text(error)
        return path, ""

    def _problem(self, value: Any) -> str:
        try:
            self._dumps(value)
        except Exception as error:
            return error_text(error)
        return ""


def _member(path: str, key: Any, of_object: bool) -> str:
    if not path:
        return str(key)
    return f"{path}.{key}" if of_object and str(key).isidentifier() else f"{path}[{key!r}]"
