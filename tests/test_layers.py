"""The layers of the package, as a table, and what no module may do. The source is read with ``ast``, not imported.

Which imports count: all, also those inside functions. Those under ``if TYPE_CHECKING:`` are not run, and are there to
name a type; they may point upward or sideways, but each such pair is listed below with its reason. A door is out of
bounds for them too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "asyncresult"

# From the top: layer, then modules. A module imports from rows below its own only. A name with a star stands for a
# package and all in it. What is not written yet may be in it already.
TABLE = [
    ("doors", "cli integrations.*"),
    ("faces", "__init__ sync"),
    ("faces", "sync.executor"),
    ("faces", "sync.sets"),
    ("faces", "sync.result"),
    ("faces", "sync.base"),
    ("faces", "sync.backend"),
    ("faces", "sync.celery"),
    ("handles", "result _handles"),
    ("handles", "_handles.eager _handles.scope _handles.tree"),
    ("handles", "_handles.sets"),
    ("handles", "_handles.streams"),
    ("handles", "_handles.joins"),
    ("handles", "_handles.handle"),
    ("handles", "_handles.updates"),
    ("verbs", "executor"),
    ("verbs", "worker"),
    ("verbs", "control"),
    ("storage", "backend"),
    ("storage", "_redis _storage"),
    ("storage", "_redis.sentinel _redis.cluster"),
    ("storage", "_storage.memory _redis.engine"),
    ("storage", "_redis.connection _redis.writes"),
    ("storage", "_storage.store _redis.pump _redis.options"),
    ("loop", "promise _storage.waiters _redis.subscriber _portal"),
    ("loop", "_promise_core _thenable _background"),
    ("machines", "codec"),
    ("machines", "codec.codec graph _redis.wire"),
    ("machines", "codec.exceptions codec.json"),
    ("records", "meta _extensions"),
    ("words", "errors states version"),
]

# Imports against the order that are right all the same: (importer, imported): reason. Each must be in use.
SIDEWAYS = {
    ("_handles.handle", "_handles.tree"): "the walks over children are methods of a handle, and made of handles",
    ("_handles.sets", "_handles.tree"): "GroupResult.restore makes handles of any kind",
    ("sync.backend", "sync.result"): "backend.result() gives a handle",
    ("sync.backend", "sync.sets"): "backend.results() gives a set of them",
    ("sync.result", "sync.sets"): "children may be groups",
}
TYPES_ONLY = {
    ("_thenable", "promise"): "what then() gives; a promise is one itself",
    ("_handles.handle", "_handles.sets"): "children may be groups",
    ("_handles.updates", "result"): "a stream tells of handles",
    ("_storage.store", "result"): "backend.result() gives a handle; the handles register the class",
    ("_storage.store", "worker"): "backend.track() gives a context; its room registers the class",
    ("worker", "result"): "a task's children are handles",
    ("executor", "result"): "what is submitted gives a handle; the handles register the classes",
}

# No loop and no I/O below the layer "loop", and in the machines no clock: what they do depends on their input alone.
_NO_LOOP = {"anyio", "asyncio", "redis", "select", "selectors", "socket", "ssl", "threading"}
STILL = {"machines": _NO_LOOP | {"time"}, "records": _NO_LOOP, "words": _NO_LOOP}

# What the core may import from outside the standard library.
DEPENDENCIES = {"anyio", "hiredis", "msgspec", "redis"}

# Uses of a forbidden name that are right all the same: (module, name): reason. Each must be in use.
ALLOWED = {
    ("_promise_core", "__del__"): "notes a rejection that nobody looked at; no I/O, no lock",
    ("__init__", "import_module"): "its own rooms, by names that stand in the source",
    ("codec.json", "import_module"): "optional packages, by names that stand in the source",
}


@dataclass(frozen=True)
class Import:
    importer: str
    imported: str
    """As a module of the package, without ``asyncresult.``; or an outside module, with a leading ``/``."""
    line: int
    types_only: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def read_modules() -> dict[str, str]:
    """Every module of the package: name to source. The package itself is ``__init__``."""
    modules: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        modules[name] = path.read_text(encoding="utf-8")
    return modules


MODULES = read_modules()
PACKAGES = {"__init__", *(name.rpartition(".")[0] for name in MODULES if "." in name)}


def imports_of(importer: str, source: str) -> Iterator[Import]:
    """Every import statement of a module, wherever it stands."""

    def visit(node: ast.AST, types_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, absolute(alias.name), node.lineno, types_only)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node.module or "") if not node.level else relative(node.level, node.module)
            for alias in node.names:
                # `from . import codec` names a module, `from .codec import Codec` something in it.
                inner = alias.name if base == "__init__" else f"{base}.{alias.name}"
                yield Import(importer, inner if inner in MODULES else base, node.lineno, types_only)
        elif isinstance(node, ast.If) and is_type_checking(node.test):
            for child in node.body:
                yield from visit(child, True)
            for child in node.orelse:
                yield from visit(child, types_only)
        else:
            for child in ast.iter_child_nodes(node):
                yield from visit(child, types_only)

    def absolute(name: str) -> str:
        first, _, rest = name.partition(".")
        if first != "asyncresult":
            return f"/{name}"
        return rest or "__init__"

    def relative(level: int, module: str | None) -> str:
        home = [] if importer == "__init__" else importer.split(".")
        if importer in PACKAGES:
            level -= 1
        parts = home[: len(home) - level] if level else home
        return ".".join([*parts, *([module] if module else [])]) or "__init__"

    def is_type_checking(test: ast.expr) -> bool:
        return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
            isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
        )

    yield from visit(ast.parse(source), False)


def find_row(module: str) -> int | None:
    for number, (_, names) in enumerate(TABLE):
        for name in names.split():
            if module == name or (name.endswith(".*") and f"{module}.".startswith(name[:-1])):
                return number
    return None


def layer_of(module: str) -> str:
    row = find_row(module)
    return TABLE[row][0] if row is not None else ""


def wrong_imports(importer: str, source: str) -> list[str]:
    """What a module imports against the rules."""
    wrong: list[str] = []
    for found in dict.fromkeys(imports_of(importer, source)):  # once a line, however many names
        if found.imported.startswith("/"):
            top = found.imported[1:].partition(".")[0]
            if top in STILL.get(layer_of(importer), ()):
                wrong.append(f"{found}: no loop, no clock, no I/O here")
            if top == "socket" and importer != "_redis.subscriber":
                wrong.append(f"{found}: sockets are for _redis.subscriber only")
            if top not in {*sys.stdlib_module_names, *DEPENDENCIES} and layer_of(importer) != "doors":
                wrong.append(f"{found}: not a dependency of the package")
            continue
        pair = (importer, found.imported)
        importer_row, imported_row = find_row(importer), find_row(found.imported)
        if importer_row is None or imported_row is None:
            wrong.append(f"{found}: not in the table")
        elif layer_of(found.imported) == "doors" and layer_of(importer) != "doors":
            wrong.append(f"{found}: nobody imports a door")
        elif layer_of(importer) == "doors" or pair in SIDEWAYS or (found.types_only and pair in TYPES_ONLY):
            continue
        elif imported_row <= importer_row:
            wrong.append(f"{found}: not below it")
    return wrong


# --- names that appear nowhere

_ENDS_A_CANCELLATION = "on Python 3.11 it can swallow a cancellation: one future and one call_later, or asyncio.timeout"
_SOCKETS = "sockets are for _redis.subscriber only"
_RUNS_WHAT_REDIS_HOLDS = "it would run what Redis holds"
FORBIDDEN = {
    "asyncio.wait_for": _ENDS_A_CANCELLATION,
    "create_connection": _SOCKETS,
    "create_unix_connection": _SOCKETS,
    "open_connection": _SOCKETS,
    "open_unix_connection": _SOCKETS,
    "sock_connect": _SOCKETS,
    "Unpickler": _RUNS_WHAT_REDIS_HOLDS,
    "pickle": _RUNS_WHAT_REDIS_HOLDS,
    "marshal": _RUNS_WHAT_REDIS_HOLDS,
    "shelve": _RUNS_WHAT_REDIS_HOLDS,
    "eval": _RUNS_WHAT_REDIS_HOLDS,
    "exec": _RUNS_WHAT_REDIS_HOLDS,
    "__import__": _RUNS_WHAT_REDIS_HOLDS,
    "import_module": _RUNS_WHAT_REDIS_HOLDS,
    "resolve_name": _RUNS_WHAT_REDIS_HOLDS,
    "__del__": "a finalizer may run anywhere, within any lock",
}


def names_in(source: str) -> Iterator[tuple[str, int]]:
    """Every name that code uses, defines or imports; not what merely stands in a text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
            if isinstance(node.value, ast.Name):
                yield f"{node.value.id}.{node.attr}", node.lineno
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield alias.name.partition(".")[0], node.lineno
                if isinstance(node, ast.ImportFrom):
                    yield f"{node.module}.{alias.name}", node.lineno
            if isinstance(node, ast.ImportFrom) and node.module:
                yield node.module.partition(".")[0], node.lineno


def forbidden_names(module: str, source: str) -> list[str]:
    return [
        f"{module}:{line} {name}: {FORBIDDEN[name]}"
        for name, line in names_in(source)
        if name in FORBIDDEN
        and (module, name) not in ALLOWED
        and not (module == "_redis.subscriber" and FORBIDDEN[name] is _SOCKETS)
        and not (layer_of(module) == "doors" and name == "import_module")
    ]


# --- the tests


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward(module: str) -> None:
    assert wrong_imports(module, MODULES[module]) == []


@pytest.mark.parametrize("module", MODULES)
def test_what_no_module_does(module: str) -> None:
    assert forbidden_names(module, MODULES[module]) == []


def test_every_module_is_in_the_table_once() -> None:
    assert [module for module in MODULES if find_row(module) is None] == []
    names = " ".join(names for _, names in TABLE).split()
    assert len(names) == len(set(names))


def test_every_exception_is_needed() -> None:
    pairs = {
        types_only: {
            (found.importer, found.imported)
            for module, source in MODULES.items()
            for found in imports_of(module, source)
            if found.types_only is types_only
        }
        for types_only in (False, True)
    }
    assert set(SIDEWAYS) - pairs[False] == set()
    assert set(TYPES_ONLY) - pairs[True] == set()
    used = {(module, name) for module, source in MODULES.items() for name, _ in names_in(source)}
    assert set(ALLOWED) - used == set()


@pytest.mark.parametrize(
    ("module", "source", "words"),
    [
        ("meta", "from .codec import Codec", "meta:1 imports codec: not below it"),
        ("meta", "from . import codec", "codec: not below it"),
        ("meta", "import asyncresult.codec", "codec: not below it"),
        ("meta", "from asyncresult.codec import Codec", "codec: not below it"),
        ("meta", "def f():\n  from .codec import Codec", "meta:2 imports codec: not below it"),
        ("meta", "if TYPE_CHECKING:\n  from .codec import Codec", "codec: not below it"),
        ("meta", "if TYPE_CHECKING: pass\nelse:\n  from .codec import Codec", "codec: not below it"),
        ("meta", "from asyncresult import AsyncResult", "__init__: not below it"),
        ("errors", "from .states import SUCCESS", "states: not below it"),
        ("graph", "import asyncio", "no loop, no clock"),
        ("_redis.wire", "from time import monotonic", "no loop, no clock"),
        ("result", "from .integrations import celery", "nobody imports a door"),
        ("result", "if TYPE_CHECKING:\n  from .integrations.celery import App", "nobody imports a door"),
        ("result", "from .nonsense import x", "nonsense: not in the table"),
        ("nonsense", "from .errors import x", "errors: not in the table"),
        ("result", "import celery", "not a dependency"),
        ("_redis.engine", "import socket", "sockets are for _redis.subscriber"),
        ("_redis.engine", "from .sentinel import x", "_redis.sentinel: not below it"),
        ("_redis.engine", "from .._storage.memory import x", "_storage.memory: not below it"),
        ("_redis.engine", "from ..backend import connect", "backend: not below it"),
        ("_redis.engine", "from .. import result", "result: not below it"),
        ("backend", "from .result import AsyncResult", "result: not below it"),
        ("__init__", "from .cli import main", "nobody imports a door"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str, words: str) -> None:
    (found,) = wrong_imports(module, source)
    assert words in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("codec.codec", "from ..meta import TaskMeta\nfrom .. import errors\nimport json, msgspec"),
        ("result", "def f():\n  from .promise import Promise"),
        ("_storage.store", "if TYPE_CHECKING:\n  from ..result import AsyncResult"),
        (
            "_redis.engine",
            "import asyncio, redis.asyncio\nfrom .._storage.store import Backend\nfrom . import subscriber",
        ),
        ("backend", "from ._storage import memory\nfrom ._redis.engine import RedisBackend"),
        ("_redis.subscriber", "import socket"),
        ("integrations.celery", "import celery\nfrom .. import AsyncResult\nfrom .shared import x"),
        ("__init__", "from .result import AsyncResult\nfrom . import errors"),
    ],
)
def test_a_right_import_is_not(module: str, source: str) -> None:
    assert wrong_imports(module, source) == []


@pytest.mark.parametrize(
    "source",
    [
        "asyncio.wait_for(x, 1)",
        "from asyncio import wait_for",
        "import pickle",
        "from pickle import loads",
        "asyncio.open_connection()",
        "__import__('os')",
        "importlib.import_module(x)",
        "from importlib import import_module",
        "eval(x)",
        "class A:\n  def __del__(self): pass",
    ],
)
def test_a_forbidden_name_is_found(source: str) -> None:
    assert forbidden_names("result", source)
    assert not forbidden_names("result", f"'''{source}'''")
