"""The layers of the package, as a table, and what no module may do. The source is read with ``ast``, not imported.

Which imports count: all, also those inside functions and those under ``if TYPE_CHECKING:``. There are no exceptions.
What no import shows is looked for as well: a module that assigns to another one, so that a lower one comes to hold
what a higher one defines.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tools import homes

PACKAGE = Path(__file__).parents[1] / "asyncresult"

# From the top: layer, then modules. A module imports from rows below its own only. A name with a star stands for a
# package and all in it.
TABLE = [
    ("programs", "__main__"),
    ("programs", "integrations.django.management.*"),
    ("programs", "cli.*"),
    ("testing", "pytest_plugin"),
    ("testing", "testing.*"),
    ("web", "integrations.django.apps"),
    ("web", "integrations.django.checks"),
    ("web", "integrations.django.urls"),
    ("web", "integrations.django.views"),
    ("web", "web.*"),
    ("integrations", "integrations.*"),
    ("faces", "sync"),
    ("faces", "sync.executor"),
    ("faces", "sync.backend"),
    ("faces", "sync.functions"),
    ("faces", "sync.groups"),
    ("faces", "sync.sets"),
    ("faces", "sync.eager"),
    ("faces", "sync.result"),
    ("faces", "sync.reads"),
    ("faces", "sync.base"),
    ("faces", "sync.celery"),
    ("faces", "__init__"),
    ("running tasks", "executor"),
    ("backends", "backend"),
    ("running tasks", "_jobs"),
    ("running tasks", "_calls"),
    ("running tasks", "_processes"),
    ("running tasks", "worker"),
    ("handles", "result"),
    ("handles", "_handles.scope _handles.forms _handles.functions"),
    ("handles", "_handles.groups"),
    ("handles", "_handles.sets _handles.eager"),
    ("handles", "_handles.streams"),
    ("handles", "_handles.looks"),
    ("handles", "_handles.joins"),
    ("handles", "_handles.result"),
    ("handles", "_handles.reads"),
    ("handles", "_handles.tree _handles.updates _handles.making"),
    ("handles", "_handles.feeds _handles.waiting _handles.futures"),
    ("handles", "_handles.measured"),
    ("handles", "_handles.handle"),
    ("handles", "_handles.known"),
    ("running tasks", "_request"),
    ("handles", "_handles.base _handles.lookup"),
    ("handles", "_handles.html"),
    ("control", "control"),
    ("running tasks", "_stored_later"),
    ("storage", "_redis.sentinel _redis.cluster"),
    ("storage", "_redis.driver _redis.scattered _redis.shard"),
    ("storage", "_redis.single _redis.engine _redis.slots"),
    ("storage", "_redis.topology"),
    ("storage", "_redis.reads _redis.writes"),
    ("storage", "_redis.pump"),
    ("storage", "_redis.connection"),
    ("storage", "_redis.retries"),
    ("storage", "_redis.urls"),
    ("storage", "_redis.options"),
    ("storage", "_storage.polled"),
    ("storage", "_storage.questions"),
    ("storage", "_storage.memory _storage.current _storage.notes"),
    ("storage", "_storage.store"),
    ("storage", "_storage.probed"),
    ("storage", "_storage.reading"),
    ("storage", "_storage.engines"),
    ("storage", "_storage.bulk"),
    ("storage", "_storage.engine"),
    ("storage", "_storage.options _storage.documents _storage.marks"),
    ("loop", "_storage.polling"),
    ("loop", "_storage.waiters _redis.subscriber _portal promise"),
    ("loop", "_storage.delivery"),
    ("loop", "_storage.rounds _storage.decoding"),
    ("loop", "_redis.address _redis.errors _redis.backoff _storage.outage"),
    ("loop", "_promise_reactions"),
    ("loop", "_promise_core"),
    ("loop", "_background"),
    ("loop", "_promise_rejections _locks"),
    ("packages", "_redis _storage _handles"),
    ("records", "codec"),
    ("records", "codec.codec graph _redis.wire _storage.entries"),
    (
        "records",
        "codec.convert codec.fast codec.pieces codec.serializers codec.compression codec.tracebacks codec.unstorable",
    ),
    ("records", "codec.json _storage.keys _redis.sieve"),
    ("records", "codec.exceptions"),
    ("words", "_progress"),
    ("words", "meta _extensions _checks probe"),
    ("words", "errors states version _log _redis.exceptions _redis.packing"),
]

# What the core never imports; it may import optional packages, and its modules each other in any order (but no circle).
OUTER = ("programs", "testing", "web", "integrations")

# No loop, no I/O and no clock below the layer "loop": what is there depends on its input alone.
_NO_LOOP = {"anyio", "asyncio", "redis", "select", "selectors", "socket", "ssl", "threading"}
STILL = {"records": _NO_LOOP | {"time"}, "words": _NO_LOOP}

# What the core may import from outside the standard library.
DEPENDENCIES = {"anyio", "hiredis", "msgspec", "redis"}
# What only type checkers import, which bring it along. (tests/test_import.py sees that no program imports it.)
FOR_TYPES = {"typing_extensions"}

#: Lines of a module, at most. One that grows beyond holds a second idea: find it, and give it a file of its own.
MOST_LINES = 520

# Uses of a forbidden name that are right all the same: (module, name): reason. Each must be in use.
ALLOWED = {
    ("codec.codec", "decode_small"): "where it is",
    ("codec.codec", "decode_large"): "likewise",
    ("_storage.decoding", "decode_small"): "the one entry of those who run on a loop",
    ("_storage.decoding", "decode_large"): "likewise",
    ("_promise_rejections", "__del__"): "notes a rejection that nobody looked at; no I/O, no lock",
    ("integrations.celery.readers.pickled", "pickle"): "reads plain values only: docs/decisions/0131",
    ("__init__", "import_module"): "its own modules, by names that are in the source",
    ("codec.serializers", "import_module"): "an optional package, by a name that stands in the source",
    ("codec.compression", "import_module"): "optional packages, by names that stand in the source",
}


@dataclass(frozen=True)
class Import:
    importer: str
    imported: str
    """As a module of the package, without ``asyncresult.``; or an outside module, with a leading ``/``."""
    line: int

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

    def visit(node: ast.AST) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, absolute(alias.name), node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node.module or "") if not node.level else relative(node.level, node.module)
            for alias in node.names:
                # `from . import codec` names a module, `from .codec import Codec` something in it.
                inner = alias.name if base == "__init__" else f"{base}.{alias.name}"
                yield Import(importer, inner if inner in MODULES else base, node.lineno)
        else:
            for child in ast.iter_child_nodes(node):
                yield from visit(child)

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

    yield from visit(ast.parse(source))


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
            if top == "socket" and importer != "_redis.address" and layer_of(importer) not in OUTER:
                wrong.append(f"{found}: sockets are for _redis.address only")
            if top not in {*sys.stdlib_module_names, *DEPENDENCIES, *FOR_TYPES} and layer_of(importer) not in OUTER:
                wrong.append(f"{found}: not a dependency of the package")
            continue
        importer_row, imported_row = find_row(importer), find_row(found.imported)
        if importer_row is None or imported_row is None:
            wrong.append(f"{found}: not in the table")
        elif layer_of(found.imported) in OUTER and layer_of(importer) not in OUTER:
            wrong.append(f"{found}: the core imports nothing outer")
        elif imported_row <= importer_row and not same_package(importer, found.imported):
            wrong.append(f"{found}: not below it")
    return wrong


# --- names that appear nowhere

_ENDS_A_CANCELLATION = "on Python 3.11 it can swallow a cancellation: one future and one call_later, or asyncio.timeout"
_SOCKETS = "sockets are for _redis.address only"
_RUNS_WHAT_REDIS_HOLDS = "it would run what Redis holds"
_ON_A_LOOP = "what a loop has the time for is decided in _storage.decoding only: Decoder"
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
    "decode_small": _ON_A_LOOP,
    "decode_large": _ON_A_LOOP,
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
        and not (FORBIDDEN[name] is _SOCKETS and (module == "_redis.address" or layer_of(module) in OUTER))
        and not (layer_of(module) in OUTER and name == "import_module")
    ]


def same_package(importer: str, imported: str) -> bool:
    """Whether both are in the same outer package, which a single row of the table stands for."""
    return layer_of(importer) in OUTER and find_row(importer) == find_row(imported)


# --- circles, and what no import shows


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """The sets of modules that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for other in arrows[todo.pop()] - seen:
                seen.add(other)
                todo.append(other)
        return seen

    reach = {module: reached(module) for module in arrows}
    found = {
        tuple(sorted(other for other in reach[module] if module in reach[other]))
        for module in arrows
        if module in reach[module]
    }
    return sorted(map(list, found))


#: Methods by which something is put into an object. (``register`` is functools.singledispatch's: open by its nature.)
_PUTS = {"append", "add", "insert", "extend", "update", "setdefault"}


def assignments_to_others(module: str, source: str) -> list[str]:
    """Statements that, when the module is imported, put something into another module of the package."""
    tree = ast.parse(source)
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom | ast.Import)
        for alias in node.names
        if (isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("asyncresult")))
        or (isinstance(node, ast.Import) and alias.name.startswith("asyncresult"))
    }

    def root(node: ast.expr) -> str:
        while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
            node = node.func if isinstance(node, ast.Call) else node.value
        return node.id if isinstance(node, ast.Name) else ""

    def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield child
                yield from run_at_import(child)

    wrong: list[str] = []
    for node in run_at_import(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign | ast.AugAssign):
            targets = [node.target]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            targets = [ast.Attribute(node.args[0], "")]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _PUTS:
            targets = [node.func]
        wrong += [
            f"{module}:{node.lineno} puts something into {root(target)}"  # type: ignore[attr-defined]
            for target in targets
            if isinstance(target, ast.Attribute | ast.Subscript) and root(target) in imported
        ]
    return wrong


# --- the tests


# One test for all modules, not one for each: what a test costs beside its body is a hundred times what this one does.


def test_imports_run_downward() -> None:
    assert [wrong for module, source in MODULES.items() for wrong in wrong_imports(module, source)] == []


def test_what_no_module_does() -> None:
    assert [wrong for module, source in MODULES.items() for wrong in forbidden_names(module, source)] == []


def test_every_module_is_in_the_table_once() -> None:
    assert [module for module in MODULES if find_row(module) is None] == []
    names = " ".join(names for _, names in TABLE).split()
    assert len(names) == len(set(names))


def test_a_module_is_one_idea_that_fits_on_a_few_pages() -> None:
    assert [module for module, source in MODULES.items() if source.count("\n") > MOST_LINES] == []


def test_every_use_of_a_forbidden_name_is_needed() -> None:
    used = {(module, name) for module, source in MODULES.items() for name, _ in names_in(source)}
    assert set(ALLOWED) - used == set()


def test_no_circle() -> None:
    arrows = {
        module: {found.imported for found in imports_of(module, source) if found.imported in MODULES}
        for module, source in MODULES.items()
    }
    assert circles(arrows) == []


@pytest.mark.parametrize(
    ("arrows", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}, [["a", "b", "c"]]),
        ({"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"c", "a"}}, [["a", "b"], ["c", "d"]]),
    ],
)
def test_a_circle_is_found(arrows: dict[str, set[str]], expected: list[list[str]]) -> None:
    assert circles(arrows) == expected


def test_nothing_is_assigned_to_another_module() -> None:
    assert [wrong for module, source in MODULES.items() for wrong in assignments_to_others(module, source)] == []


@pytest.mark.parametrize(
    "source",
    [
        "from ._storage.store import handles\nhandles.result = AsyncResult",
        "from ._storage import store\nstore.handles.result = AsyncResult",
        "from ._storage import store\nstore.kinds['result'] = AsyncResult",
        "from ._storage import store\nsetattr(store, 'result', AsyncResult)",
        "from ._storage.store import Store as S\nif True:\n  S.made = AsyncResult",
        "import asyncresult._storage.store as store\nstore.made: type = AsyncResult",
        "from ._storage.store import kinds\nkinds.append(AsyncResult)",
    ],
)
def test_an_assignment_to_another_module_is_found(source: str) -> None:
    assert assignments_to_others("result", source)


@pytest.mark.parametrize(
    "source",
    [
        "from celery import Task\nTask.x = 1",
        "from ._storage import store\ndef f():\n  store.x = 1",
        "from .base import blocking\nblocking.register(A, B)",
    ],
)
def test_what_is_no_assignment_to_another_module(source: str) -> None:
    assert assignments_to_others("sync.result", source) == []


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
        ("_storage.store", "if TYPE_CHECKING:\n  from ..result import AsyncResult", "result: not below it"),
        ("graph", "import asyncio", "no loop, no clock"),
        ("_redis.wire", "from time import monotonic", "no loop, no clock"),
        ("result", "from .integrations import celery", "the core imports nothing outer"),
        ("result", "if TYPE_CHECKING:\n  from .integrations.celery import App", "the core imports nothing outer"),
        ("result", "from .nonsense import x", "nonsense: not in the table"),
        ("nonsense", "from .errors import x", "errors: not in the table"),
        ("result", "import celery", "not a dependency"),
        ("_redis.engine", "import socket", "sockets are for _redis.address"),
        ("_redis.engine", "from .sentinel import x", "_redis.sentinel: not below it"),
        ("_storage.memory", "from .._redis.options import x", "_redis.options: not below it"),
        ("_redis.engine", "from ..backend import connect", "backend: not below it"),
        ("_redis.engine", "from .. import result", "result: not below it"),
        ("_handles.result", "from ..backend import Backend", "backend: not below it"),
        ("__init__", "from .integrations.x import main", "the core imports nothing outer"),
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
        (
            "_redis.engine",
            "import asyncio, redis.asyncio\nfrom .._storage.store import Store\nfrom . import subscriber",
        ),
        ("backend", "from ._storage import memory\nfrom ._redis.driver import RedisDriver"),
        ("_redis.address", "import socket"),
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


# --- the drawing of the layers


def drawn_rows() -> Iterator[list[int]]:
    """For each line of the drawing, the rows of the table that its modules are in."""
    page = PACKAGE.parent / "docs" / "explanation" / "how-it-works.md"
    drawing = page.read_text(encoding="utf-8").partition("## The layers of the code")[2].split("```")[1]
    folder = ""
    for line in drawing.splitlines()[1:]:
        first, *others = re.split(r" {2,}", line.strip())
        if first.endswith("/"):
            folder = first.replace("/", ".")
            names = [first[:-1] if not first.startswith("_") else "", *(folder + word for word in others)]
        elif line.startswith("    "):
            names = [folder + word for word in (first, *others)]
        else:
            names = [first, *others]
        yield [row for name in names if name in MODULES and (row := find_row(name)) is not None]


def test_the_drawing_agrees_with_the_table() -> None:
    lines = [rows for rows in drawn_rows() if rows]
    assert sum(map(len, lines)) > 40
    for above, below in itertools.pairwise(lines):
        assert max(above) <= min(below), f"rows {above} of the table are drawn above {below}"


# --- the tests of each module


def test_each_module_has_its_tests() -> None:
    """In ``test_<module>.py``, or where tests/tools/homes.py says."""
    of_their_own = {module for module, source in MODULES.items() if homes.does_something(source)}
    named = {module for module in of_their_own if homes.own_files(module)}
    assert of_their_own - named - homes.LISTED.keys() == set(), (
        "no test file has their names: add one, or a line of THROUGH in tests/tools/homes.py"
    )
    assert [module for module, times in homes.LISTED.items() if times > 1] == []


def test_what_is_listed_is_there() -> None:
    assert homes.LISTED.keys() - MODULES.keys() == set()
    for file in homes.THROUGH:
        assert re.search(r"^ *(async )?def test_", (homes.TESTS / file).read_text(encoding="utf-8"), re.MULTILINE), file


def test_a_module_without_tests_is_found() -> None:
    assert homes.own_files("_redis.wire") == [homes.TESTS / "test_wire.py"]
    assert homes.own_files("cli.checks.redis") == []
    assert not homes.does_something('"""A package."""\nfrom .a import b\nC = 1')
    assert homes.does_something("async def f(): ...")
