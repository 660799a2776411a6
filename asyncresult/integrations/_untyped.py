"""What type checkers see in place of classes of libraries that have no types: Celery's, kombu's, Django's.

A class that derives from an untyped one is of unknown type as a whole, and so is every function that mentions it. One
that derives from :class:`Untyped` has its own methods with their types, and any other attribute. It is declared, and
never imported at run time.
"""

from __future__ import annotations

from abc import ABCMeta
from typing import Any

__all__ = ["Untyped"]


class _AnyAttribute(ABCMeta):
    def __getattr__(cls, name: str) -> Any: ...


class Untyped(metaclass=_AnyAttribute):
    """A class of which only this is known: it takes any arguments and has any attribute."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: Any) -> None: ...
