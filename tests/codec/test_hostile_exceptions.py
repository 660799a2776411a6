"""Whatever a record names, no code of it runs."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import time
import tracemalloc
import types
from collections.abc import Iterator
from typing import Any

import pytest

from asyncresult.codec import (
    Codec,
)
from asyncresult.errors import (
    TaskFailed,
)
from asyncresult.meta import TaskMeta
from asyncresult.states import FAILURE
from tests.codec.records import (
    ID,
    PLAIN,
    NeedsInit,
    raised,
    stored_as,
)

RAN: list[str] = []


class Speaking(Exception):
    """Code of the application takes part in showing it."""

    def __str__(self) -> str:
        return "".join(map(str, self.args))


class _Meta(type):
    def __call__(cls, *args: Any) -> Any:
        RAN.append("metaclass call")
        return super().__call__(*args)

    def __getattribute__(cls, name: str) -> Any:
        RAN.append(f"metaclass {name}")
        return super().__getattribute__(name)

    def __eq__(cls, other: object) -> bool:
        RAN.append("metaclass eq")
        return True

    def __hash__(cls) -> int:
        RAN.append("metaclass hash")
        return 0

    def __instancecheck__(cls, instance: object) -> bool:
        RAN.append("metaclass instancecheck")
        return True

    def __subclasscheck__(cls, subclass: type) -> bool:
        RAN.append("metaclass subclasscheck")
        return True

    @property
    def __mro__(cls) -> Any:
        RAN.append("metaclass mro")
        return (ValueError, Exception)


class _Hostile(ValueError, metaclass=_Meta):
    def __new__(cls, *args: Any) -> Any:
        RAN.append("new")
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        RAN.append("init")

    def __getattribute__(self, name: str) -> Any:
        RAN.append(f"get {name}")
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        RAN.append(f"set {name}")

    def add_note(self, note: str) -> None:
        RAN.append("note")

    Inner = KeyError


class _HostileOS(OSError):
    def __init__(self, *args: Any) -> None:
        RAN.append("init")


class _Proxy:
    """Claims to be a class, as lazy objects do."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        RAN.append("class")
        return type

    def __getattr__(self, name: str) -> Any:
        RAN.append(f"get {name}")
        return ValueError


class _LazyModule(types.ModuleType):
    def __getattribute__(self, name: str) -> Any:
        RAN.append(f"module {name}")
        return super().__getattribute__(name)

    @property
    def Lazy(self) -> Any:
        RAN.append("property")
        return ValueError


@pytest.fixture
def hostile() -> Iterator[str]:
    module = _LazyModule("hostile_module")
    space: dict[str, Any] = types.ModuleType.__dict__["__dict__"].__get__(module)  # type: ignore[index]
    space.update(
        __getattr__=lambda name: RAN.append(name) or ValueError,
        Hostile=_Hostile,
        HostileOS=_HostileOS,
        proxy=_Proxy(),
        other=sys,
        function=lambda *args: RAN.append("called"),
        instance=ValueError("x"),
        Both=type("Both", (SystemExit, ValueError.__mro__[1]), {}),
        Stop=type("Stop", (StopIteration,), {}),
        Group=type("Group", (ExceptionGroup,), {}),
        Plain=type("Plain", (), {"Nested": ValueError, "os": importlib, "prop": property(lambda self: ValueError)}),
    )
    sys.modules["hostile_module"] = module
    sys.modules["hostile_object"] = _Proxy()  # type: ignore[assignment]
    RAN.clear()
    yield "hostile_module"
    del sys.modules["hostile_module"], sys.modules["hostile_object"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "int"),
        ("builtins", "type"),
        ("builtins", "object"),
        ("builtins", "__import__"),
        ("builtins", "__loader__"),
        ("builtins", "BaseException"),
        ("builtins", "SystemExit"),
        ("builtins", "KeyboardInterrupt"),
        ("builtins", "GeneratorExit"),
        ("builtins", "StopIteration"),
        ("builtins", "StopAsyncIteration"),
        ("builtins", "BaseExceptionGroup"),
        ("asyncio", "CancelledError"),
        ("asyncio.exceptions", "CancelledError"),
        ("subprocess", "Popen"),
        ("subprocess", "os.error"),
        ("os", "path"),
        ("os", "path.os.error"),
        ("os", "sys.modules"),
        ("builtins", ""),
        ("builtins", "ValueError."),
        ("builtins", ".ValueError"),
        ("builtins", "ValueError.__class__"),
        ("builtins", "ValueError.__base__"),
        ("builtins", "ValueError.__init__"),
        ("builtins", "ValueError.__mro__"),
        ("builtins", "__builtins__.ValueError"),
        ("builtins", "__dict__"),
        ("", "ValueError"),
        ("antigravity", "E"),
        ("this", "E"),
        ("no.such.module", "E"),
        ("..", "E"),
        ("os\0", "error"),
        ("json.tool", "E"),
        ("hostile_module", "proxy"),
        ("hostile_module", "proxy.ValueError"),
        ("hostile_module", "missing"),
        ("hostile_module", "Lazy"),
        ("hostile_module", "function"),
        ("hostile_module", "instance"),
        ("hostile_module", "other.exc_info"),
        ("hostile_module", "Both"),
        ("hostile_module", "Stop"),
        ("hostile_module", "Group"),
        ("hostile_module", "Plain"),
        ("hostile_module", "Plain.os"),
        ("hostile_module", "Plain.prop"),
        ("hostile_module", "Plain.os.util"),
        ("hostile_object", "ValueError"),
        ("hostile_object", "anything"),
        ("asyncresult.errors", "TaskFailed"),
        ("asyncresult.errors", "BackendClosed"),
    ],
)
def test_hostile_names(module: str, name: str, hostile: str) -> None:
    before = dict(sys.modules)
    exc = raised({"exc_type": name, "exc_message": ["echo pwned"], "exc_module": module})
    assert type(exc) is TaskFailed
    assert (exc.exc_type, exc.exc_module) == (name or "Exception", module)
    assert exc.exc_args == ("echo pwned",)
    assert sys.modules == before
    assert RAN == []


def test_no_code_of_a_class_runs(hostile: str) -> None:
    stored = {"exc_type": "Hostile", "exc_message": ["a", 1], "exc_module": hostile}
    exc = PLAIN.exception(TaskMeta(task_id=ID, status=FAILURE, result=stored, traceback="text", worker="w"))
    nested = raised({"exc_type": "Hostile.Inner", "exc_message": ["k"], "exc_module": hostile})
    system = raised({"exc_type": "HostileOS", "exc_message": [2, "no", "f"], "exc_module": hostile})
    ran = list(RAN)
    assert ran == []
    assert type(exc) is TaskFailed  # its class has a __getattribute__(): whoever catches it would run that
    assert type(nested) is KeyError
    assert exc.exc_args == ("a", 1)
    assert str(BaseException.__dict__["__cause__"].__get__(exc)) == '\n"""\ntext"""'
    assert type(system) is _HostileOS
    assert (system.errno, system.filename, str(system)) == (2, "f", "[Errno 2] no: 'f'")


class _Picky(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one, two)
        if one < 0:
            raise SystemError("picky")


class _Liar(Exception):
    def __new__(cls, *args: Any) -> Any:
        return 5


def test_listed_exceptions_are_constructed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(Exception):
        pass

    reader = Codec(exceptions=[NeedsInit, _Picky, _Liar, Local])
    exc = raised(stored_as(NeedsInit, 7), reader=reader)
    assert type(exc) is NeedsInit
    assert (exc.code, exc.made, str(exc)) == (7, True, "code 7")
    assert exc.__notes__ == [f"task {ID} failed"]
    for misfit in (stored_as(_Picky, 1), stored_as(_Picky, -1, 0), stored_as(_Liar)):
        assert type(raised(misfit, reader=reader)) is TaskFailed
    # Nobody can find it by its name, but here it is; also as Celery stores what cannot be pickled.
    assert type(raised(stored_as(Local, "x"), reader=reader)) is Local
    wrapper = {"exc_type": "UnpickleableExceptionWrapper", "exc_module": "celery.utils.serialization"}
    wrapper["exc_message"] = [Local.__module__, "Local", ["x"], "Local('x')"]  # type: ignore[assignment]
    assert type(raised(wrapper, reader=reader)) is Local
    assert type(raised(wrapper)) is TaskFailed


def test_unlisted_exceptions_are_not(vexc: types.ModuleType) -> None:
    exc = raised({"exc_type": "Mismatch", "exc_message": ["a", "b"], "exc_module": "vexc"})
    assert type(exc) is vexc.Mismatch
    assert exc.args == ("a", "b")
    nested = raised({"exc_type": "Outer.Nested", "exc_message": "in", "exc_module": "vexc"})
    assert type(nested) is vexc.Outer.Nested


def test_what_could_not_be_shown_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """`NeedsInit` without its constructor has no code, and its str() would fail in every log."""
    monkeypatch.setitem(sys.modules, "needy", types.ModuleType("needy"))
    monkeypatch.setattr(sys.modules["needy"], "NeedsInit", NeedsInit, raising=False)
    exc = raised({"exc_type": "NeedsInit", "exc_message": [7], "exc_module": "needy"})
    assert type(exc) is TaskFailed
    assert str(exc) == "needy.NeedsInit: 7"


@pytest.mark.parametrize("stops", [asyncio.CancelledError, GeneratorExit])
def test_a_listed_class_may_raise_what_is_no_exception(stops: type[BaseException]) -> None:
    def stop(*_: object) -> Any:
        raise stops

    for name in ("__init__", "__str__", "__repr__", "__reduce_ex__"):
        cls = type("Stops", (Exception,), {name: stop, "__module__": __name__, "__qualname__": "Stops"})
        exc = raised(stored_as(cls, 1), reader=Codec(exceptions=[cls]))
        assert type(exc) is TaskFailed, name


def test_pairs_that_are_no_fields_are_not_made_a_mapping() -> None:
    """Whole numbers of one hash would take hours as its keys."""
    pairs = [[number * sys.hash_info.modulus, 0] for number in range(20_000)]
    begun = time.thread_time()
    exc = raised(pairs)
    assert time.thread_time() - begun < 0.5
    assert type(exc) is TaskFailed
    assert exc.exc_args == (pairs,)
    assert type(raised([["exc_type", "KeyError"], ["exc_message", ["k"]], ["exc_module", "builtins"]])) is KeyError


@pytest.mark.parametrize("name", ["ValueError", "Speaking", "NoSuchError"])
@pytest.mark.parametrize(
    "args", [("\x7f" * 2_000_000, 1), (["a" * 2_000_000],), ("a" * 2_000_000,), (b"a" * 2_000_000,)]
)
def test_very_long_arguments_are_not_copied(name: str, args: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["builtins"], "Speaking", Speaking, raising=False)
    tracemalloc.start()
    try:
        exc = raised({"exc_type": name, "exc_message": list(args), "exc_module": "builtins"})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    is_message = len(args) == 1 and isinstance(args[0], str)  # of a TaskFailed: behind its names
    assert peak < (2_100_000 if is_message else 100_000)
    assert type(exc) is (ValueError if name == "ValueError" else TaskFailed)
    assert (exc.exc_args if isinstance(exc, TaskFailed) else exc.args) == args
    if isinstance(exc, TaskFailed):
        shown = args[0] if is_message else "(arguments that are too long to be shown)"
        assert str(exc) == f"builtins.{name}: {shown}"


@pytest.mark.parametrize(
    "name", ["__getattribute__", "__class__", "__cause__", "__context__", "__traceback__", "with_traceback"]
)
def test_what_could_not_be_raised_is_not_made(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Any:
        raise ZeroDivisionError

    value = refuse if name in ("__getattribute__", "with_traceback") else property(refuse)
    cls = type("Odd", (Exception,), {name: value, "__module__": "builtins"})
    monkeypatch.setattr(sys.modules["builtins"], "Odd", cls, raising=False)
    assert type(raised({"exc_type": "Odd", "exc_message": ["x"], "exc_module": "builtins"})) is TaskFailed


def test_a_name_of_nothing_but_dots_takes_no_memory() -> None:
    stored = TaskMeta(task_id=ID, status=FAILURE, result={"exc_type": "." * 1_000_000, "exc_module": "builtins"})
    tracemalloc.start()
    try:
        assert type(PLAIN.exception(stored)) is TaskFailed
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
