"""Templates of messages give what Celery and kombu give, and are used only where nothing else decides."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import kombu.exceptions
import pytest
from celery import Celery, signals
from celery.app.task import Task as StockTask
from celery.utils.saferepr import saferepr
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncresult.integrations.celery import messages, templates
from asyncresult.integrations.celery.publisher import Composed, Publisher
from asyncresult.integrations.celery.redis_messages import _with_places
from asyncresult.integrations.celery.templates import (
    Plain,
    _is_celerys_own,
    _is_simple,
    _key,
    _representation,
    is_overridden,
    plain_signature,
)

from .test_celery_sending import make_app

pytestmark = pytest.mark.celery

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def app() -> Celery:
    return make_app("redis://127.0.0.1:1/0")  # nothing is sent


def compose(publisher: Publisher, *args: Any, **options: Any) -> tuple[Composed, bool]:
    """What is sent for ``add(*args)``, and whether a template made it."""
    task = publisher.app.tasks["add"]
    with mock.patch.object(
        messages._Producer, "publish", autospec=True, side_effect=messages._Producer.publish
    ) as made:
        composed = publisher._compose(
            lambda: task.apply_async(args, **options), Plain(task, args, {}, options), publisher._idle
        )
    return composed, not made.called


def message(composed: Composed) -> Any:
    """What was composed, but for what is new for each message."""
    (command,) = composed.commands
    decoded = json.loads(command[2])
    assert len(decoded["properties"].pop("delivery_tag")) == 36
    return command[:2], decoded


def learned(app: Celery, **options: Any) -> Publisher:
    publisher = Publisher(app)
    assert [compose(publisher, 1, **options)[1] for _ in range(4)] == [False, False, False, True]
    return publisher


def by_celery(publisher: Publisher, *args: Any, **options: Any) -> Any:
    task = publisher.app.tasks["add"]
    return message(publisher._compose(lambda: task.apply_async(args, **options), None, publisher._idle))


def test_each_argument_gives_the_message_that_celery_makes(app: Celery) -> None:
    publisher = learned(app)

    @settings(max_examples=30)
    @given(st.lists(VALUES, min_size=1, max_size=2))
    def check(args: list[Any]) -> None:
        composed, by_template = compose(publisher, *args, task_id="one")
        assert by_template
        assert message(composed) == by_celery(publisher, *args, task_id="one")
        assert composed.value.id == "one"

    check()


@settings(max_examples=50)
@given(st.tuples(VALUES, VALUES) | st.tuples(VALUES) | st.lists(VALUES) | st.dictionaries(st.text(), VALUES))
def test_arguments_are_shown_as_celery_shows_them(value: Any) -> None:
    assert _representation(value, 60, None) == saferepr(value, 60)


@pytest.mark.parametrize(
    "options",
    [
        {"queue": "celery", "priority": 7, "serializer": "pickle"},
        {"ignore_result": True, "time_limit": 5, "soft_time_limit": 3, "shadow": '100% "other" %s'},
        {"routing_key": "x", "delivery_mode": 1, "retry": False, "reply_to": "elsewhere"},
    ],
)
def test_options_that_stay_the_same_are_part_of_a_template(app: Celery, options: dict[str, Any]) -> None:
    publisher = learned(app, **options)
    composed, by_template = compose(publisher, 2, task_id="one", **options)
    assert by_template
    assert message(composed) == by_celery(publisher, 2, task_id="one", **options)
    assert composed.value.ignored is options.get("ignore_result", False)


@pytest.mark.parametrize(
    "options",
    [
        *({"countdown": 5}, {"expires": 5}, {"compression": "zlib"}, {"headers": {"a": 1}}, {"group_id": "g"}),
        *({"root_id": "r"}, {"link": {"task": "x", "args": []}}, {"stamped_headers": ["who"], "who": "me"}),
    ],
)
def test_what_may_differ_each_time_is_made_by_celery(app: Celery, options: dict[str, Any]) -> None:
    publisher = learned(app)
    for _ in range(4):
        assert not compose(publisher, 2, task_id="one", **options)[1]


@contextmanager
def receiver() -> Iterator[None]:
    def receive(**_: object) -> None: ...

    signals.before_task_publish.connect(receive)
    try:
        yield
    finally:
        signals.before_task_publish.disconnect(receive)


@contextmanager
def child(app: Celery) -> Iterator[None]:
    from celery._state import _task_stack

    _task_stack.push(app.tasks["add"])
    try:
        yield
    finally:
        _task_stack.pop()


CHANGES: dict[str, Callable[[Celery], Any]] = {
    "a receiver": lambda _: receiver(),
    "a parent": child,
    "a setting": lambda app: mock.patch.dict(app.conf.changes, {"task_repr_maxlevels": 1}),
    "an option of the task": lambda app: mock.patch.object(app.tasks["add"], "ignore_result", True),
    "a method of the task": lambda app: mock.patch.object(
        app.tasks["add"], "apply_async", side_effect=app.tasks["add"].apply_async
    ),
    "a method of all tasks": lambda _: mock.patch.object(
        StockTask, "apply_async", autospec=True, side_effect=StockTask.apply_async
    ),
    "a method of the app": lambda app: mock.patch.object(app, "send_task", side_effect=app.send_task),
    "another backend": lambda app: mock.patch.object(app._local, "backend", app._get_backend()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_template_ends_with_what_it_was_made_in(app: Celery, change: str) -> None:
    publisher = learned(app)
    with CHANGES[change](app):
        composed, by_template = compose(publisher, 2, task_id="one")
        assert not by_template
        assert message(composed) == by_celery(publisher, 2, task_id="one")


def test_a_message_that_a_template_does_not_give_is_made_by_celery_each_time(app: Celery) -> None:
    publisher, names = Publisher(app), map(str, range(100))
    # As if nobody had seen that the task has a method of its own, which gives another name each time.
    with (
        mock.patch.object(app.tasks["add"], "shadow_name", side_effect=names),
        mock.patch("asyncresult.integrations.celery.templates._is_celerys_own", return_value=True),
    ):
        composed = [compose(publisher, 1) for _ in range(5)]
    assert not any(by_template for _, by_template in composed)
    shadows = [json.loads(each.commands[-1][2])["headers"]["shadow"] for each, _ in composed]
    assert shadows == ["0", "1", "2", "3", "4"]


def test_a_router_that_is_a_function_is_called_each_time() -> None:
    def route(name: str, args: Any, *_: object, **__: object) -> Any:
        return {"queue": "brief"} if args == (9,) else None

    app = make_app("redis://127.0.0.1:1/0", task_routes=(route,))
    publisher = Publisher(app)
    assert not any(compose(publisher, 1)[1] for _ in range(5))
    pushed = [command[1] for command in compose(publisher, 9)[0].commands if command[0] == "LPUSH"]
    assert pushed == ["brief"]


def test_another_thread_has_its_own_reply_queue() -> None:
    app = make_app("redis://127.0.0.1:1/0", result_backend="asyncresult+redis://127.0.0.1:1/0")  # one for all threads
    publisher = learned(app)
    found: list[Any] = []

    def send() -> None:
        found.append(compose(publisher, 2, task_id="one")[0])
        found.append(by_celery(publisher, 2, task_id="one"))

    thread = threading.Thread(target=send)
    thread.start()
    thread.join()
    assert message(found[0]) == found[1]


def test_bad_arguments_raise_what_celery_raises_and_leave_the_template(app: Celery) -> None:
    publisher = learned(app)
    with pytest.raises(kombu.exceptions.EncodeError):
        compose(publisher, object())
    with pytest.raises(TypeError):
        compose(publisher, 1, 2, 3)
    assert compose(publisher, 2)[1]


# -- where no template is made --------------------------------------------------------------------------------


def test_a_signature_of_a_task_that_is_not_known_here_is_sent_by_its_name(app: Celery) -> None:
    assert plain_signature(app.signature("elsewhere.task", args=(1,)), app) is None
    known = plain_signature(app.tasks["add"].s(1), app)
    assert known is not None
    assert (known.task.name, known.args) == ("add", (1,))


@pytest.mark.parametrize(
    "change",
    [
        lambda message: json.dumps(message, indent=1),
        lambda message: json.dumps({**message, "headers": {"id": "one"}}),
        lambda message: json.dumps({**message, "headers": {**message["headers"], "root_id": "another"}}),
    ],
    ids=["another spelling", "protocol 1", "the id of another task"],
)
def test_a_message_that_is_not_as_kombus_are_gives_no_template(app: Celery, change: Callable[[Any], str]) -> None:
    (command,) = compose(learned(app), 1, task_id="one")[0].commands
    assert _with_places(command[2], "one") is not None
    assert _with_places(change(json.loads(command[2])), "one") is None


@pytest.mark.parametrize(
    ("args", "kwargs", "options"),
    [
        ({1}, {}, {}),
        ((1,), [("x", 1)], {}),
        ((1,), {}, {"task_id": 5}),
        ((1,), {}, {"headers": {"mine": 1}}),
    ],
)
def test_calls_with_what_is_no_constant(app: Celery, args: Any, kwargs: Any, options: Any) -> None:
    plain = Plain(app.tasks["add"], args, kwargs, options)
    assert not _is_simple(plain) or _key(plain) is None


def test_a_dictionary_is_shown_as_celery_shows_it() -> None:
    for value in ({"a": 1, "b": "it's"}, {"a": [1]}, {}):
        assert _representation(value, 60, None) == saferepr(value, 60)


def test_what_belongs_to_the_application_is_not_celerys_own(app: Celery) -> None:
    class Mine(StockTask):  # type: ignore[misc]
        def apply_async(self, *args: Any, **options: Any) -> Any:
            return super().apply_async(*args, **options)

    def task(name: str, **options: Any) -> Any:
        def body(x: int) -> int:
            return x

        app.task(body, name=name, shared=False, **options)
        return app.tasks[name]

    plain = task("plain")
    assert _is_celerys_own(plain, app)
    assert not _is_celerys_own(task("mine", base=Mine), app)
    assert not _is_celerys_own(task("brief", expires=60), app)
    with mock.patch.object(plain, "_dump_pydantic_arguments", print, create=True):
        assert not _is_celerys_own(plain, app)
    assert not is_overridden(int, ("apply_async",), StockTask)


def test_many_kinds_of_calls_are_forgotten_together(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_MOST", 2)
    publisher = learned(app, priority=1)
    for priority in (2, 3, 4):
        compose(publisher, 1, priority=priority)
        compose(publisher, 1, priority=priority)
    assert not compose(publisher, 1, priority=1)[1]


def test_a_compressed_message_gives_no_template(app: Celery) -> None:
    publisher = Publisher(app)
    assert not any(compose(publisher, 1, compression="gzip")[1] for _ in range(4))
