"""Names with an underscore belong to the file that defines them: what other files touch is listed here.

What a module has for the others beside a class of the users' is a function of the same file
(:func:`asyncresult._handles.handle.is_ready`), not a private method.
"""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import asyncresult

PACKAGE = Path(asyncresult.__file__).parent

#: Of 1,000 lines, so many may touch a private name of another file.
MOST = 3.0

#: What one folder may touch of another one's private names: (folder, name). A new pair needs a reason as good as these.
BETWEEN_FOLDERS = {
    # What Store, Backend and TaskContext have for the package: not for users, so no public name.
    ("_handles", "_revive"): "a handle from its form, made by the backend",
    ("_handles", "_serves"): "whether a table of waiters is still in use",
    ("", "_engines"): "control: the engines of a store",
    ("", "_serves"): "as above",
    ("_redis", "_engine_ended"): "an engine reports its end to its store",
    ("", "_storable"): "the executor checks values before it sends them to a process",
    ("integrations/celery", "_reopen"): "connect(app) opens a closed backend again",
    ("integrations/taskiq", "_enter"): "the same as `async with backend`, from other hooks",
    ("integrations/taskiq", "_leave"): "likewise",
    ("sync", "_enter"): "likewise",
    ("sync", "_leave"): "likewise",
    ("testing", "_enter"): "likewise",
    ("testing", "_leave"): "likewise",
    # Fields of a record that users see by a property under the same name.
    ("codec", "_date_done"): "as it is stored",
    ("codec", "_extra"): "as it is stored",
    # Django's models.
    ("cli", "_meta"): "the name of a table",
    ("integrations/celery", "_meta"): "likewise",
    # The blocking face of a handle.
    ("sync", "_failure"): "a fresh exception",
    ("sync", "_type"): "a copy of a handle",
    ("sync", "_values"): "the outcome of a set",
    ("web", "_below"): "the tree of tasks",
}

#: Names of the standard library, Celery, kombu, Django, and SQLAlchemy: not ours to rename.
FOREIGN = {
    "_SubParsersAction": "argparse",
    "_Unpickler": "pickle, in Python",
    "_actions": "argparse",
    "_backend_cache": "celery.app.base",
    "_default_manager": "django.db.models",
    "_get_task_meta_for": "celery.backends.base",
    "_key_field": "celery.backends.mongodb, dynamodb …",
    "_local": "celery.app.base",
    "_log_destroy_pending": "asyncio.tasks",
    "_maybe_set_cache": "celery.result",
    "_set_with_state": "celery.backends.base",
    "_tasks": "celery.app.base",
    "_transport_options": "celery.backends.redis",
    "_value_field": "celery.backends.dynamodb",
}


@cache
def touched(source: str) -> list[tuple[int, str]]:
    """Line and name of each private attribute of something else than ``self`` that this source does not define."""
    tree = ast.parse(source)
    own: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                own.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                own.add(name)
            case ast.Attribute(attr=name, value=ast.Name(id="self" | "cls"), ctx=ast.Store()):
                own.add(name)
            case ast.Constant(value=str(name)) if name.startswith("_"):  # __slots__
                own.add(name)
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super"))):
                pass
            case ast.Attribute(attr=name) if name.startswith("_") and not name.startswith("__") and name not in own:
                found.append((node.lineno, name))
    return found


def test_few_lines_touch_private_names_of_other_files() -> None:
    lines = 0
    found: list[str] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        lines += source.count("\n")
        found += [f"{path.relative_to(PACKAGE)}:{line} {name}" for line, name in touched(source) if name not in FOREIGN]
    assert lines > 10_000
    assert len(found) * 1000 / lines <= MOST, "\n".join(found)


def folder_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "/".join(parts[:2]) if parts[0] == "integrations" else parts[0] if len(parts) > 1 else ""


def defined(source: str) -> set[str]:
    """The private names that a source defines: functions, classes, variables, attributes, slots."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Constant(value=str(name)) if name.startswith("_"):
                names.add(name)
    return names


def test_folders_keep_to_themselves() -> None:
    """Pyright's reportPrivateUsage cannot say this: to it, what is private belongs to a class, not to a folder."""
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
    owners: dict[str, set[str]] = {}
    for path, source in sources.items():
        for name in defined(source):
            owners.setdefault(name, set()).add(folder_of(path))
    found = {
        (folder_of(path), name): f"{path.relative_to(PACKAGE)}:{line}"
        for path, source in sources.items()
        for line, name in touched(source)
        if name not in FOREIGN and name in owners and folder_of(path) not in owners[name]
    }
    assert {pair: place for pair, place in found.items() if pair not in BETWEEN_FOLDERS} == {}
    assert BETWEEN_FOLDERS.keys() - found.keys() == set()


def test_every_foreign_name_is_used() -> None:
    used = Counter(name for path in PACKAGE.rglob("*.py") for _, name in touched(path.read_text(encoding="utf-8")))
    assert sorted(FOREIGN.keys() - used.keys()) == []


def test_what_counts_as_touched() -> None:
    source = "class A:\n  def f(self, other):\n    self._a = other._a\n    return other._b, super()._c\n"
    assert touched(source) == [(4, "_b")]
