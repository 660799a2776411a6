"""Signatures as they are written: without resolved annotations and without the defaults' memory addresses."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

__all__ = ["signature_text"]


class _Text(str):
    """An annotation that :mod:`inspect` shows as it was written, without quotes."""

    def __repr__(self) -> str:
        return str(self)


def signature_text(function: Any, *, width: int = 90) -> str:
    """The signature of a function or class as it is written, broken into lines beyond ``width``."""
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=_as_written(parameter.annotation), default=_shown(parameter.default))
        for parameter in signature.parameters.values()
    ]
    if "." in function.__qualname__ and parameters and parameters[0].name in ("self", "cls"):
        del parameters[0]
    returns = signature.empty if isinstance(function, type) else _as_written(signature.return_annotation)
    text = str(signature.replace(parameters=parameters, return_annotation=returns))
    if len(text) <= width or not parameters:
        return text
    inside = str(signature.replace(parameters=parameters, return_annotation=signature.empty))
    after = text.removeprefix(inside)
    return "(\n" + "".join(f"    {part},\n" for part in _split(inside[1:-1])) + f"){after}"


def _split(parameters: str) -> Iterator[str]:
    """The parameters, apart at the commas that stand in no bracket."""
    depth, start = 0, 0
    for at, character in enumerate(parameters):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            yield parameters[start:at].strip()
            start = at + 1
    yield parameters[start:].strip()


def _as_written(annotation: Any) -> Any:
    return _Text(annotation) if isinstance(annotation, str) else annotation


def _shown(default: Any) -> Any:
    if default is Any or (isinstance(default, type) and default is not inspect.Parameter.empty):
        return _Text(default.__name__)
    if isinstance(default, frozenset):
        return _Text(f"frozenset({sorted(default)})")  # in an order of its own in each process
    return _Text("…") if inspect.isfunction(default) else default  # a function's address is different each time
