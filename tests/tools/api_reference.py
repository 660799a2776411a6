"""Writes docs/reference/api.md from signatures and docstrings: ``python3 -m tests.tools.api_reference``."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "reference", "signature_text"]

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "api.md"

HEAD = """\
# API

Every public name, from its docstring. What may touch the network is a coroutine or an asynchronous iterator; a
property only reads memory. Where something is raised that does not stand under *Raises*, code or page has a bug.

Names with an underscore in front, and modules that are not named here, may change at any time.
"""

#: What the functions and methods of the faces give, beside what stands in ``__all__``.
GIVEN = {
    "asyncresult.result": ["Completed", "SetUpdates", "Scope"],
    "asyncresult.control": ["Reply"],
    "asyncresult.executor": ["Submitter"],
}

#: Titles, and the names under them. What is in ``__all__`` and in no group stands under "Others": no name is lost.
GROUPS: dict[str, tuple[str, ...]] = {
    "Connecting": ("connect", "current_backend", "Backend", "BackendStats"),
    "Results": ("AsyncResult", "ResultSet", "GroupResult", "EagerResult", "TaskMeta", "Updates"),
    "Several results": ("gather", "as_completed", "wait", "scope", "result_from_tuple"),
    "Promises": ("Promise", "Settled"),
    "Running tasks": ("Executor", "value_of", "TaskContext", "current_task"),
    "Graphs and types": ("DependencyGraph", "register_type"),
    "Constants": ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION", "__version__"),
}

#: Classes that are only there to be inherited, in the files below the public ones.
_HIDDEN = {"BasePromise", "Blocking", "Handle", "Keys", "Node", "ResultBase", "Store", "Thenable"}

# Signatures stand in blocks of "py": what stands in blocks of "python" is whole statements, and tests compile it.
_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Wire|Source)(?: \((.*)\))?: ?(.*)")


class _Text(str):
    """An annotation that :mod:`inspect` shows as it was written, without quotes."""

    def __repr__(self) -> str:
        return str(self)


def reference() -> str:
    """The page."""
    import asyncresult

    errors = tuple(name for name in asyncresult.__all__ if _is_error(getattr(asyncresult, name)))
    others = set(asyncresult.__all__) - set(errors) - {name for names in GROUPS.values() for name in names}
    lines = [HEAD]
    for title, names in {**GROUPS, "Errors": errors, "Others": tuple(sorted(others))}.items():
        if names:
            lines.append(f"## {title}\n")
        for name in names:
            lines += _entry(name, getattr(asyncresult, name))
    lines.append("## What these give\n")
    for module, given in GIVEN.items():
        for name in given:
            lines += _entry(name, getattr(importlib.import_module(module), name))
    lines += _sync()
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _sync() -> Iterator[str]:
    import asyncresult.sync as sync

    yield "## `asyncresult.sync`\n"
    yield "The same nouns for code without an event loop, with Celery's shapes: what is a coroutine above blocks here,"
    yield "or is a property. `help()` shows each in full.\n"
    for name in sync.__all__:
        thing = getattr(sync, name)
        if not callable(thing):
            yield f"* `{name}`: asyncio's."
            continue
        signature = signature_text(thing, width=1000) if inspect.isfunction(thing) else ""
        yield f"* `{name}{signature}`: {_first_line(thing)}"
        if inspect.isclass(thing) and (own := [f"`{member}`" for member, _ in _own_members(thing)]):
            yield f"  Has {', '.join(own)}{_and_inherited(thing)}"
    yield ""


def _is_error(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, Exception)


def _entry(name: str, thing: Any) -> Iterator[str]:
    yield f"### `{name}`\n"
    if not callable(thing):
        yield "The version, a text.\n" if name == "__version__" else "asyncio's, for `wait(return_when=…)`.\n"
        return
    if not _is_error(thing) and not _made_by_others(thing):
        yield f"```py\n{name}{signature_text(thing)}\n```\n"
    yield _markdown(_doc(thing))
    if isinstance(thing, type) and not _is_error(thing):
        for member, function in _own_members(thing):
            yield f"#### `{name}.{member}`\n"
            yield from _member(member, function)
        if (inherited := _and_inherited(thing)) != ".":
            yield f"It has{inherited.removeprefix(' and')}\n"


def _member(name: str, function: Any) -> Iterator[str]:
    if isinstance(function, (property, functools.cached_property)):
        yield f"Property. {_markdown(_doc(function))}".rstrip() + "\n"
        return
    plain: Any = inspect.unwrap(getattr(function, "__func__", function))
    if plain.__name__ != name:
        yield f"Another name of `{plain.__name__}`.\n"
        return
    kind = "async " if inspect.iscoroutinefunction(plain) else "async iterator " if _iterates(plain) else ""
    yield f"```py\n{kind}{name}{signature_text(plain)}\n```\n"
    yield _markdown(_doc(plain))


def _iterates(function: Any) -> bool:
    return inspect.isasyncgenfunction(function)


def _made_by_others(thing: Any) -> bool:
    """Whether a user never calls it, so that its parameters are nobody's business."""
    return isinstance(thing, type) and bool(re.search(r"[Mm]ade by|What is known|A look at|One worker's", _doc(thing)))


def _own_members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties, in order of definition; with those of bases that have no entry of their own."""
    seen: set[str] = set()
    for owner in [cls, *(base for base in _bases(cls) if _is_hidden(base))]:
        if owner is not cls and any(issubclass(base, owner) for base in _bases(cls) if not _is_hidden(base)):
            continue  # what has an entry has them
        for name, member in vars(owner).items():
            if name.startswith("_") or name in seen or inspect.isclass(member):
                continue
            if (callable(member) or _is_wrapped(member)) and not getattr(member, "__isabstractmethod__", False):
                seen.add(name)
                yield name, member


def _bases(cls: type) -> list[type]:
    return [base for base in cls.__mro__[1:] if base.__module__.partition(".")[0] == "asyncresult"]


def _is_wrapped(member: object) -> bool:
    return isinstance(member, (property, functools.cached_property, classmethod, staticmethod))


def _is_hidden(cls: type) -> bool:
    """Whether a class is only there to be inherited."""
    return cls.__name__ in _HIDDEN


def _and_inherited(cls: type) -> str:
    """The end of a sentence about the bases that have an entry."""
    named = [f"`{base.__name__}`" for base in _bases(cls) if not _is_hidden(base)]
    return f" and all of {', '.join(named)}." if named else "."


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


def _doc(thing: Any) -> str:
    return inspect.getdoc(thing) or ""


def _first_line(thing: Any) -> str:
    return " ".join(_markdown(_doc(thing).split("\n\n")[0]).split())


def _markdown(doc: str) -> str:
    """A docstring of the house style as Markdown."""
    lines: list[str] = []
    section = ""
    for line in doc.splitlines():
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if not indent and (found := _SECTION.fullmatch(text)):
            section, when, rest = found.groups()
            lines += ["", f"**{section}**{f' ({when})' if when else ''}{': ' if rest else ''}{rest}", ""]
            section = "" if rest else section
        elif not indent and text:
            section = ""
            lines.append(line)
        elif section in ("Args", "Attributes", "Raises") and indent == 4 and re.match(r"[\w, *.]+:( |$)", text):
            names, _, meaning = text.partition(":")
            lines.append(f"* `{names}`:{meaning}")
        elif section and text:
            lines.append(f"{'  ' if section in ('Args', 'Attributes', 'Raises') else ''}{text}")
        else:
            lines.append(line)
    text = re.sub(r"(?m)^::$", "", "\n".join(lines)).replace("``", "`")
    text = re.sub(r":(?:class|meth|func|mod|attr):`[.~]*([\w.]+)`", r"`\1`", text)
    return re.sub(r"((?:^    .*\n?|^\n(?=    ))+)", _code, text, flags=re.MULTILINE) + "\n"


def _code(block: re.Match[str]) -> str:
    inside = inspect.cleandoc(block.group()).strip("\n")
    language = "python" if "await" in inside or "async" in inside else "text"
    return f"\n```{language}\n{inside}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
    if importlib.util.find_spec("celery") is not None:  # not where the documentation alone is built
        from tests.tools import exports

        exports.PAGE.write_text(exports.exports(), encoding="utf-8")
