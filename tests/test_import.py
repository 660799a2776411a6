"""What ``import asyncresult`` imports, and that the names which it leaves for later are there all the same.

Each test asks a fresh interpreter: this one has imported everything already.
"""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import asyncresult

LATER = ["_handles.sets", "_storage.waiters", "control", "executor", "graph", "result", "sync", "worker"]


def run(program: str) -> str:
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_what_many_programs_never_use_is_not_imported() -> None:
    """benchmarks: import. A new import at the top of a module is how this would be undone."""
    modules = {f"asyncresult.{name}" for name in LATER} | {
        "dataclasses",
        "json",
        "lzma",
        "random",
        "redis",
        "typing_extensions",
    }
    program = f"""
import sys, asyncio, msgspec  # which import what they like
before = set(sys.modules)
from asyncresult import AsyncResult, connect
print((set(sys.modules) - before) & {modules!r})
"""
    assert run(program) == "set()\n"


def test_a_plain_server_needs_nothing_of_redis_py() -> None:
    """benchmarks: first-get. Its package imports clients, cluster and metrics: more than all that is imported here."""
    program = """
import asyncio, sys
from asyncresult import connect
async def main():
    async with connect("redis://127.0.0.1:1/0?retry=0") as backend:
        return (await backend.health()).reason
print(bool(asyncio.run(main())), {"redis", "anyio"} & set(sys.modules))
"""
    assert run(program) == "True set()\n"


def test_version_and_help_import_neither_the_core_nor_asyncio() -> None:
    program = """
import sys
from asyncresult.cli import main
print(main(["--version"]), main(["--help"]) , {"asyncio", "msgspec", "redis", "rich"} & set(sys.modules))
"""
    assert run(program).splitlines()[-1] == "0 0 set()"


@pytest.mark.parametrize(
    "name",
    ["backend", "codec", "control", "errors", "meta", "states", "executor", "graph", "promise", "result", "worker"],
)
def test_a_public_module_is_an_attribute_without_being_imported(name: str) -> None:
    assert run(f"import asyncresult; print(asyncresult.{name}.__name__)") == f"asyncresult.{name}\n"


def test_every_name_is_there() -> None:
    program = "from asyncresult import *; import asyncresult as a; print(*(n for n in a.__all__ if n in globals()))"
    assert run(program).split() == asyncresult.__all__


def test_dir_lists_every_name_before_it_is_used() -> None:
    assert run("import asyncresult; print({*asyncresult.__all__} - {*dir(asyncresult)})") == "set()\n"


def test_a_name_is_found_anew_where_it_was_lost() -> None:
    lost = vars(asyncresult).pop("graph", None)
    assert asyncresult.graph is (lost or sys.modules["asyncresult.graph"])
    assert set(asyncresult.__all__) <= set(dir(asyncresult))


def test_no_other_name_is_there() -> None:
    with pytest.raises(AttributeError, match=r"module 'asyncresult' has no attribute 'nonsense'"):
        asyncresult.nonsense  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match=r"cannot import name 'nonsense'"):
        from asyncresult import nonsense  # type: ignore[attr-defined]  # noqa: F401


@pytest.mark.parametrize(
    ("made", "kind"), [("results(['a'])", "ResultSet"), ("track('a')", "TaskContext"), ("result('a')", "AsyncResult")]
)
def test_a_backend_makes_what_is_not_imported_yet(made: str, kind: str) -> None:
    assert run(f"import asyncresult as a; print(type(a.connect('memory://').{made}).__name__)") == f"{kind}\n"


@pytest.mark.parametrize(
    "made",
    [
        "from asyncresult import AsyncResult; handle = AsyncResult('a')",
        "from asyncresult import ResultSet, AsyncResult; handle = ResultSet([AsyncResult('a')])[0]",
        "from asyncresult.result import result_from_tuple; handle = result_from_tuple(('a', None))",
        f"import pickle; handle = pickle.loads({pickle.dumps(asyncresult.AsyncResult('a'))!r})",
    ],
)
def test_a_handle_finds_its_backend_where_nothing_else_was_imported(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCRESULT_URL", "memory://")
    assert run(f"{made}; print(handle.backend)") == "memory://\n"
    monkeypatch.delenv("ASYNCRESULT_URL")
    program = f"""
{made}
try:
    handle.backend
except RuntimeError as error:
    print(error)
"""
    assert run(program).startswith("no backend: ")


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("web", "starlette", "web"),
        ("web", "itsdangerous", "web"),
        ("integrations.celery", "celery", "celery"),
        ("integrations.taskiq", "taskiq", "taskiq"),
        ("integrations.prometheus", "prometheus_client", "prometheus"),
        ("integrations.otel", "opentelemetry", "otel"),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(module: str, package: str, extra: str) -> None:
    program = f"""
import sys
sys.modules[{package!r}] = None
try:
    import asyncresult.{module}
except ModuleNotFoundError as error:
    print(error.name.partition(".")[0], error)
"""
    shown = run(program)
    assert shown.startswith(package)
    assert shown.endswith(f": pip install 'asyncresult[{extra}]'\n")


def test_threads_may_import_for_the_first_time_together() -> None:
    program = """
import asyncresult, threading
names = [name for name in asyncresult.__all__ for _ in range(4)]
start, found, threads = threading.Barrier(len(names)), [], []
def look(name):
    start.wait()
    found.append((name, getattr(asyncresult, name)))
threads = [threading.Thread(target=look, args=[name]) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(found) == len(names), all(value is getattr(asyncresult, name) for name, value in found))
"""
    assert run(program) == "True True\n"


def test_a_codec_is_made_with_all_that_records_may_need() -> None:
    """What Redis holds imports nothing."""
    program = """
import sys
from asyncresult.codec import Codec
from asyncresult.errors import ResultDecodeError
from asyncresult.meta import TaskMeta
codec = Codec()
before = set(sys.modules)
for kind in ("x-gzip", "x-bz2", "x-lzma", "x-brotli", "zstd"):
    try:
        codec.decode("a", b"\\0celery-compressed\\0application/" + kind.encode() + b"\\0nonsense")
    except ResultDecodeError:
        pass
codec.decode("a", codec.encode(TaskMeta(task_id="a", status="SUCCESS", result=[b"\\xff", 1])))
try:
    codec.decode("a", b'{"status": "SUCCESS", "result": {"__type__": "uuid", "__value__": {"hex": "x"}}}')
except ResultDecodeError:
    pass
print(set(sys.modules) - before, {"bz2", "json", "lzma", "zlib"} - before)
"""
    assert run(program) == "set() set()\n"
