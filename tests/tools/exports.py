"""Writes tests/data/exports.txt, every public name with its signature: ``python3 -m tests.tools.exports``.

A change of what users see is a change of that file, and so a line in the review.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_overloads

from tests.tools.signatures import signature_text

__all__ = ["PAGE", "exports"]

PAGE: Path = Path(__file__).parents[1] / "data" / "exports.txt"

#: Every path that may be imported.
MODULES = [
    "asyncresult",
    "asyncresult.backend",
    "asyncresult.codec",
    "asyncresult.control",
    "asyncresult.errors",
    "asyncresult.executor",
    "asyncresult.graph",
    "asyncresult.integrations.celery",
    "asyncresult.integrations.django",
    "asyncresult.integrations.jupyter",
    "asyncresult.integrations.otel",
    "asyncresult.integrations.taskiq",
    "asyncresult.meta",
    "asyncresult.promise",
    "asyncresult.result",
    "asyncresult.states",
    "asyncresult.sync",
    "asyncresult.testing",
    "asyncresult.testing.celery",
    "asyncresult.web",
    "asyncresult.web.fastapi",
    "asyncresult.worker",
]
#: Methods with underscores that users reach through the language.
_SPECIAL = ("__await__", "__aiter__", "__anext__", "__iter__", "__next__", "__aenter__", "__enter__", "__len__")


def exports() -> str:
    """The file."""
    described: dict[object, str] = {}
    lines = [f"# {__doc__.splitlines()[0]}" if __doc__ else ""]
    for path in MODULES:
        module = importlib.import_module(path)
        lines.append(f"\n[{path}]")
        for name in sorted(module.__all__):
            thing = getattr(module, name)
            first = described.setdefault(thing, f"{path}.{name}") if callable(thing) else f"{path}.{name}"
            if first != f"{path}.{name}":
                lines.append(f"{name}: {first}")
            else:
                lines += _describe(name, thing)
    return "\n".join(lines).strip() + "\n"


def _describe(name: str, thing: Any) -> Iterator[str]:
    if isinstance(thing, type):
        bases = ", ".join(base.__name__ for base in thing.__bases__ if base is not object)
        yield f"class {name}({bases})"
        yield from _signatures(f"{name}.__init__", vars(thing).get("__init__", thing))
        for member in sorted(_members(thing)):
            yield from _member(f"{name}.{member}", inspect.getattr_static(thing, member))
    elif callable(thing):
        yield from _signatures(name, thing)
    else:
        shown = sorted(thing) if isinstance(thing, frozenset) else thing
        yield f"{name} = {'…' if name == '__version__' else repr(shown)}"


def _members(cls: type) -> set[str]:
    """Public members, those of bases within the package included."""
    ours = [base for base in cls.__mro__ if base.__module__.partition(".")[0] == "asyncresult"]
    return {
        name
        for base in ours
        for name in (*vars(base), *getattr(base, "__annotations__", ()))
        if not name.startswith("_") or name in _SPECIAL
    } & set(dir(cls))


def _member(name: str, member: Any) -> Iterator[str]:
    if isinstance(member, (property, functools.cached_property)):
        getter = member.fget if isinstance(member, property) else member.func
        yield f"{name}: property{signature_text(getter, width=10_000).removeprefix('()')}"
    elif isinstance(member, (staticmethod, classmethod)):
        yield from _signatures(name, member.__func__)
    elif inspect.isfunction(member):
        yield from _signatures(name, member)
    elif inspect.ismemberdescriptor(member) or inspect.isgetsetdescriptor(member) or callable(member):
        yield f"{name}: attribute"
    else:
        yield f"{name} = {member!r}"


def _signatures(name: str, function: Any) -> Iterator[str]:
    """One line; or one for each overload."""
    kind = "async " if inspect.iscoroutinefunction(inspect.unwrap(function)) else ""
    try:
        for variant in (get_overloads(function) if inspect.isfunction(function) else ()) or [function]:
            yield f"{kind}{name}{signature_text(variant, width=10_000)}"
    except (TypeError, ValueError):  # of C, without a signature
        yield f"{name}(…)"


if __name__ == "__main__":
    PAGE.write_text(exports(), encoding="utf-8")
