"""Exceptions out of records, and into records."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import traceback
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from asyncresult import AsyncResult, GroupResult, connect
from asyncresult.codec import (
    Codec,
    RemoteTraceback,
)
from asyncresult.errors import (
    ResultTimeout,
    TaskFailed,
    TaskRevoked,
)
from asyncresult.meta import TaskMeta
from asyncresult.states import FAILURE, PENDING, RETRY, REVOKED, SUCCESS
from tests.codec.records import (
    ID,
    PLAIN,
    NeedsInit,
    failed,
    failure,
    raised,
    stored_as,
)


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("boom"),
        KeyError("k"),
        RuntimeError(),
        OSError("only text"),
        OSError(2, "No such file"),
        FileNotFoundError(2, "No such file"),
        BlockingIOError(11, "again"),
        TimeoutError("t"),
        ConnectionError(104, "r"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        UnicodeEncodeError("ascii", "é", 0, 1, "no"),
        UnicodeTranslateError("é", 0, 1, "no"),
        SyntaxError("invalid syntax", ("f.py", 3, 5, "x =", 3, 6)),
        SyntaxError("plain"),
        IndentationError("unexpected", ("f.py", 1, 2, " x", 1, 3)),
        ImportError("no module"),
        ModuleNotFoundError("no module"),
        AttributeError("attr"),
        NameError("name"),
        ZeroDivisionError("by zero"),
        MemoryError(),
        RecursionError("deep"),
        AssertionError({"a": 1}, [2]),
        EOFError(None),
        UserWarning("w"),
        LookupError(datetime(2024, 1, 2, tzinfo=UTC), Decimal("1.5"), b"\xff", uuid.UUID(int=7)),
        NotImplementedError("no"),
    ],
    ids=repr,
)
def test_builtin_exceptions_come_back_whole(exc: Exception) -> None:
    meta = failed(exc)
    back = PLAIN.exception(PLAIN.decode(ID, PLAIN.encode(meta)))
    assert type(back) is type(exc)
    assert (str(back), repr(back), back.args) == (str(exc), repr(exc), exc.args)
    for name in ("errno", "strerror", "filename", "msg", "lineno", "text", "object", "start", "reason"):
        assert getattr(back, name, None) == getattr(exc, name, None)
    assert back.__traceback__ is None


def test_errno_and_filename_are_understood() -> None:
    exc = raised({"exc_type": "OSError", "exc_message": [13, "denied", "f.txt"], "exc_module": "builtins"})
    assert type(exc) is PermissionError
    assert (exc.errno, exc.filename, str(exc)) == (13, "f.txt", "[Errno 13] denied: 'f.txt'")


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("UnicodeDecodeError", ["x"]),
        ("SyntaxError", ["m", [1]]),
        ("ExceptionGroup", ["m", ["x"]]),
    ],
)
def test_arguments_that_do_not_fit_a_builtin(name: str, args: list[Any]) -> None:
    exc = raised({"exc_type": name, "exc_message": args, "exc_module": "builtins"})
    assert type(exc) is TaskFailed
    assert (exc.exc_type, exc.exc_module, exc.exc_args) == (name, "builtins", tuple(args))


def test_each_exception_is_fresh() -> None:
    meta = failure(traceback="Traceback …\nValueError: x\n")
    first, second = PLAIN.exception(meta), PLAIN.exception(meta)
    assert first is not second
    assert first is not None
    assert second is not None
    assert first.__cause__ is not second.__cause__
    assert first.__notes__ is not second.__notes__


@pytest.mark.parametrize("status", [SUCCESS, PENDING, "STARTED", "PROGRESS", "BROKEN"])
def test_no_exception_in_other_states(status: str) -> None:
    assert PLAIN.exception(TaskMeta(task_id=ID, status=status, result=failure().result)) is None


def test_retries() -> None:
    assert PLAIN.exception(TaskMeta(task_id=ID, status=RETRY, result=None)) is None
    exc = raised(failure().result, RETRY)
    assert repr(exc) == "ValueError('x')"
    assert exc.__notes__ == [f"task {ID} is to be retried"]


def test_the_traceback_reads_well() -> None:
    exc = PLAIN.exception(
        failure(
            traceback="Traceback (most recent call last):\n  …\nValueError: x\n", name="app.resize", worker="w1@lab"
        )
    )
    assert exc is not None
    text = "".join(traceback.format_exception(exc))
    assert text.startswith(
        'asyncresult.codec.RemoteTraceback: \n"""\nTraceback (most recent call last):\n  …\nValueError: x\n"""\n'
    )
    assert "The above exception was the direct cause of the following exception:" in text
    assert text.endswith(f"ValueError: x\ntask app.resize {ID} failed on w1@lab\n")
    cause = pickle.loads(pickle.dumps(exc.__cause__))
    assert isinstance(cause, RemoteTraceback)
    assert str(cause) == str(exc.__cause__)
    assert str(RemoteTraceback()) == ""
    plain = PLAIN.exception(failure())
    assert plain is not None
    assert plain.__cause__ is None


def test_names_are_escaped() -> None:
    exc: Any = PLAIN.exception(failure("Bad\nType\x1b[31m", module="mod\rule", name="na\nme", worker="w\u202e"))
    assert str(exc) == r"mod\rule.Bad\nType\x1b[31m: x"
    assert exc.__notes__ == [rf"task na\nme {ID} failed on w\u202e"]
    assert exc.exc_type == "Bad\nType\x1b[31m"  # the fact itself is as it was recorded
    assert len(str(raised({"exc_type": "x" * 10_000, "exc_module": "m"}))) < 300


@pytest.mark.parametrize(
    ("stored", "message", "args"),
    [
        ({"exc_type": "Foo", "exc_message": ["x"], "exc_module": "gone"}, "gone.Foo: x", ("x",)),
        ({"exc_type": "Foo", "exc_message": [], "exc_module": "gone"}, "gone.Foo", ()),
        ({"exc_type": "Foo", "exc_message": ["a", 1], "exc_module": "gone"}, "gone.Foo: ('a', 1)", ("a", 1)),
        ({"exc_type": "Foo", "exc_message": "text"}, "Foo: text", ("text",)),
        ({"exc_type": "Foo", "exc_module": "gone"}, "gone.Foo", ("",)),
        ({"exc_type": "Foo", "exc_message": None}, "Foo: None", (None,)),
        ({"exc_type": "Foo", "exc_message": {"a": 1}, "exc_module": 5}, "Foo: {'a': 1}", ({"a": 1},)),
        ({"exc_message": ["x"]}, "x", ("x",)),
        ({"exc_type": None, "exc_message": ["x"]}, "x", ("x",)),
        ({"exc_type": "", "exc_message": ["x"], "exc_module": "m"}, "x", ("x",)),
        ({"exc_type": 5, "exc_message": ["x"], "exc_module": "m"}, "x", ("x",)),
        ({"reason": "mine"}, "{'reason': 'mine'}", ({"reason": "mine"},)),
        ([["exc_type", "Foo"], ["exc_message", ["q"]]], "Foo: q", ("q",)),
        ([1, 2], "[1, 2]", ([1, 2],)),
        ([[[], 1]], "[[[], 1]]", ([[[], 1]],)),
        ("text", "text", ("text",)),
        (5, "5", (5,)),
        (None, "the worker recorded no exception", ()),
        ({}, "the worker recorded no exception", ()),
        ("", "the worker recorded no exception", ()),
        (
            {
                "exc_type": "UnpickleableExceptionWrapper",
                "exc_module": "celery.utils.serialization",
                "exc_message": ["gone", "Local", ["a", 1], "Local('a', 1)"],
            },
            "gone.Local: ('a', 1)",
            ("a", 1),
        ),
        (
            {
                "exc_type": "UnpickleableExceptionWrapper",
                "exc_module": "celery.utils.serialization",
                "exc_message": [None, 5, "text"],
            },
            "text",
            ("text",),
        ),
        (
            {"exc_type": "UnpickleableExceptionWrapper", "exc_module": "gone", "exc_message": ["a", "b", "c"]},
            "gone.UnpickleableExceptionWrapper: ('a', 'b', 'c')",
            ("a", "b", "c"),
        ),
    ],
)
def test_all_forms_of_a_stored_exception(stored: Any, message: str, args: tuple[Any, ...]) -> None:
    exc = raised(stored)
    assert type(exc) is TaskFailed
    assert (str(exc), exc.exc_args, exc.task_id) == (message, args, ID)


def test_arguments_that_cannot_be_shown() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert str(raised({"exc_type": "Foo", "exc_message": [deep]})) == "Foo: (arguments that cannot be shown)"


def test_revoked() -> None:
    stored = {"exc_type": "TaskRevokedError", "exc_message": ["terminated"], "exc_module": "celery.exceptions"}
    for status in (REVOKED, FAILURE):
        exc = raised(stored, status)
        assert type(exc) is TaskRevoked
        assert (str(exc), exc.exc_type, exc.exc_module) == ("terminated", "TaskRevokedError", "celery.exceptions")
        assert exc.exc_args == ("terminated",)
    assert str(raised(None, REVOKED)) == "revoked"
    own = raised(failure().result, REVOKED)
    assert type(own) is TaskRevoked
    assert (str(own), own.exc_type, own.exc_module) == ("x", "ValueError", "builtins")
    assert own.__notes__ == [f"task {ID} was revoked"]


def test_errors_of_ours_are_distinguished_from_those_of_others() -> None:
    """A timeout that the worker met is no timeout of this wait."""
    meta = failed(ResultTimeout("late", task_id="other", timeout=20))
    exc = PLAIN.exception(meta)
    assert type(exc) is TaskFailed
    assert str(exc) == "asyncresult.errors.ResultTimeout: late"


def test_exceptions_are_written_as_celery_does() -> None:
    when = datetime(2024, 1, 2, tzinfo=UTC)
    encoded = PLAIN.encode_exception(KeyError("k", (1, (2,)), when, {1}, {"t": ()}))
    assert encoded == {
        "exc_type": "KeyError",
        "exc_message": ["k", [1, [2]], when, "{1}", {"t": []}],
        "exc_module": "builtins",
    }
    assert list(encoded) == ["exc_type", "exc_message", "exc_module"]
    assert PLAIN.encode_exception(NeedsInit(5))["exc_type"] == "NeedsInit"
    group = PLAIN.encode_exception(ExceptionGroup("eg", [ValueError(1)]))
    assert group["exc_message"] == ["eg", "[ValueError(1)]"]
    assert PLAIN.encode_exception(KeyboardInterrupt())["exc_type"] == "KeyboardInterrupt"


def test_failures_that_were_read_are_passed_on() -> None:
    stored = {"exc_type": "Outer.Gone", "exc_message": ["a", 1], "exc_module": "gone"}
    assert PLAIN.encode_exception(raised(stored)) == stored
    revoked = {"exc_type": "TaskRevokedError", "exc_message": ["expired"], "exc_module": "celery.exceptions"}
    assert PLAIN.encode_exception(raised(revoked, REVOKED)) == revoked
    assert PLAIN.encode_exception(TaskRevoked("expired")) == revoked
    own = PLAIN.encode_exception(TaskFailed("mine"))
    assert own == {"exc_type": "TaskFailed", "exc_message": ["mine"], "exc_module": "asyncresult.errors"}


# -- exceptions that cannot be reported ---------------------------------------------------------------------------


def builtin_failure(name: str, *args: Any) -> Exception:
    return raised({"exc_type": name, "exc_message": list(args), "exc_module": "builtins"})


@pytest.mark.parametrize(
    ("start", "end"), [(-1, 0), (0, 4), (4, 4), (2, 1), (-(10**13), 1 - 10**13), (10**15, 10**15 + 1), (0, 2**63 - 1)]
)
@pytest.mark.parametrize("kind", ["Decode", "Encode", "Translate"])
def test_offsets_of_unicode_errors_lie_within_the_text(kind: str, start: int, end: int) -> None:
    """CPython looks at memory out of the text, which may end the process."""
    heads: dict[str, list[Any]] = {"Decode": ["utf-8", b"abc"], "Encode": ["ascii", "abc"], "Translate": ["abc"]}
    head = heads[kind]
    assert type(builtin_failure(f"Unicode{kind}Error", *head, start, end, "why")) is TaskFailed
    for sound in ((0, 0), (0, 1), (1, 3), (3, 3)):
        assert type(builtin_failure(f"Unicode{kind}Error", *head, *sound, "why")).__name__ == f"Unicode{kind}Error"


def test_offsets_are_checked_for_listed_classes_as_well() -> None:
    class Own(UnicodeDecodeError):
        pass

    reader = Codec(exceptions=[Own])
    assert type(raised(stored_as(Own, "utf-8", b"abc", -5, -4, "why"), reader=reader)) is TaskFailed
    assert type(raised(stored_as(Own, "utf-8", b"abc", 1, 2, "why"), reader=reader)) is Own


@pytest.mark.parametrize(
    "details",
    [
        ["f.py", 1, 1, "x", 1, 10**12],
        ["f.py", 1, 10**12, "x", 1, 10**12],
        ["f.py", 1, -5, "x", 1, 3],
        ["f.py", "1", 1, "x", 1, 1],
        ["f.py", 1, 1.5, "x", 1, 1],
        [["f.py"], 1, 1, "x", 1, 1],
        ["f.py", 1, 1, b"x", 1, 1],
        ["f.py", 10**30, 1, "x", 1, 1],
    ],
)
def test_details_of_a_syntax_error_are_such(details: list[Any]) -> None:
    """traceback would draw a caret for each column, or fail."""
    exc = builtin_failure("SyntaxError", "invalid syntax", details)
    assert type(exc) is TaskFailed
    assert len("".join(traceback.format_exception(exc))) < 1000


class Reported(Exception):
    """Of each subclass one method needs what the constructor would have set."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class NoStr(Reported):
    def __str__(self) -> str:
        return f"code {self.code}"


class NoRepr(Reported):
    def __repr__(self) -> str:
        return f"<code {self.code}>"


class NoFormat(Reported):
    def __format__(self, spec: str) -> str:
        return f"{self.code}"


class NoReduce(Reported):
    def __reduce__(self) -> Any:
        return NoReduce, (self.code,)


class WrongText(Exception):
    def __str__(self) -> Any:
        return 5


@pytest.mark.parametrize("cls", [NoStr, NoRepr, NoFormat, NoReduce, WrongText])
def test_what_cannot_be_reported_is_not_made(cls: type[Exception]) -> None:
    exc = raised(stored_as(cls, 7))
    assert type(exc) is TaskFailed
    pickle.loads(pickle.dumps(exc))
    listed = raised(stored_as(cls, 7), reader=Codec(exceptions=[cls]))
    assert type(listed) is (TaskFailed if cls is WrongText else cls)


class Broken:
    def __repr__(self) -> str:
        raise OSError("broken")


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("arg", [nested(900), nested(60), 1 << 20_000, Broken(), [0] * 200_000], ids=range(5))
@pytest.mark.parametrize("name", ["ValueError", "KeyError", "Gone"])
def test_arguments_are_shown_within_bounds(name: str, arg: Any) -> None:
    """Deep in a program's stack, too: there repr() of what is nested 900 levels deep is a RecursionError."""
    exc = builtin_failure(name, arg)
    assert type(exc) is TaskFailed
    assert str(exc) == f"builtins.{name}: (arguments that cannot be shown)"
    assert repr(exc)
    pickle.loads(pickle.dumps(exc))


@pytest.mark.parametrize("arg", [nested(40), [0] * 50_000, 10**4000, "x" * 1_000_000])
def test_unusual_arguments_are_kept(arg: Any) -> None:
    exc = builtin_failure("ValueError", arg)
    assert type(exc) is ValueError
    assert exc.args == (arg,)


class CancelledToo(asyncio.CancelledError, ValueError):
    pass


class FutureCancelled(concurrent.futures.CancelledError):
    pass


@pytest.mark.parametrize(
    "cls",
    [asyncio.CancelledError, concurrent.futures.CancelledError, CancelledToo, FutureCancelled, asyncio.TimeoutError],
)
def test_no_cancellation_is_raised_because_a_record_says_so(cls: type[BaseException]) -> None:
    exc = raised(stored_as(cls, "x"))
    if cls is TimeoutError:
        assert type(exc) is TimeoutError  # an error like any other
        return
    assert type(exc) is TaskFailed
    assert exc.exc_type == cls.__qualname__
    with pytest.raises(ValueError, match="that a coroutine can raise"):
        Codec(exceptions=[cls])  # type: ignore[list-item]  # on purpose


class Turncoat(Exception):
    def __new__(cls, *args: Any) -> Any:
        return StopIteration(*args)


def test_a_listed_class_cannot_turn_into_what_is_never_raised() -> None:
    assert type(raised(stored_as(Turncoat, 1), reader=Codec(exceptions=[Turncoat]))) is TaskFailed


class Undecided:
    def __bool__(self) -> bool:
        raise ValueError("the truth value is ambiguous")

    __len__ = __bool__

    def __eq__(self, other: object) -> bool:
        raise ValueError("so is equality")

    __hash__ = object.__hash__


@pytest.mark.parametrize("status", [FAILURE, RETRY, REVOKED])
def test_the_truth_of_a_stored_value_does_not_matter(status: str) -> None:
    """As with arrays, of a type that the application has registered."""
    for stored in (Undecided(), {"exc_type": Undecided(), "exc_module": Undecided(), "exc_message": [Undecided()]}):
        exc = raised(stored, status)
        assert isinstance(exc, TaskFailed)
        assert isinstance(exc.exc_args[0], Undecided)


# -- classes that the user lists ----------------------------------------------------------------------------------


class Report(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Detailed(Report):
    pass


def test_subclasses_of_a_listed_class_are_constructed_as_well() -> None:
    class Local(Report):  # which no name leads to
        pass

    reader = Codec(exceptions=[Report])
    for cls in (Report, Detailed, Local):
        exc = raised(stored_as(cls, 5), reader=reader)
        assert type(exc) is cls
        assert exc.code == 5
        assert exc.__notes__ == [f"task {ID} failed"]
    assert type(raised(stored_as(Detailed, 5, 6), reader=reader)) is TaskFailed
    assert type(raised(stored_as(ResultTimeout, "late"), reader=Codec(exceptions=[Exception]))) is TaskFailed


def test_a_note_says_that_the_constructor_was_not_called() -> None:
    hint = "list the class in exceptions= to have it called"
    assert raised(stored_as(Report, 5)).__notes__ == [
        f"task {ID} failed",
        f"the constructor of Report was not called: {hint}",
    ]
    assert raised(stored_as(Detailed, 5)).__notes__[1].startswith("the constructor of Detailed was not called")
    assert raised(stored_as(NoStr, 5)).__notes__[1] == f"the constructor of NoStr would be needed: {hint}"
    assert raised(stored_as(WrongText, 5)).__notes__ == [f"task {ID} failed"]
    assert builtin_failure("ValueError", 5).__notes__ == [f"task {ID} failed"]


class Noted(Exception):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.__notes__ = "mine"  # type: ignore[assignment]  # not a list


def test_notes_of_the_class_do_not_disturb() -> None:
    exc = raised(stored_as(Noted), reader=Codec(exceptions=[Noted]))
    assert exc.__notes__ == [f"task {ID} failed"]


def test_states_and_ids_are_shown_without_control_characters() -> None:
    backend = connect("memory://")
    handle = AsyncResult("a\u202eb", backend=backend)
    handle._meta = TaskMeta(task_id=handle.id, status="PRO\rGRESS\u202e")
    assert repr(handle) == r"<AsyncResult: a\u202eb PRO\rGRESS\u202e>"
    group = GroupResult("g\u202e", [handle])
    assert repr(group).isprintable()
