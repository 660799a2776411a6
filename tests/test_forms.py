"""Celery's portable form: what it converts to and from, however deep, and what is not of that form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asyncresult import AsyncResult, GroupResult, NotReady, ResultDecodeError, connect, result_from_tuple
from asyncresult._storage.store import engine_of
from tests.codec.records import VAGUE

DEPTH = 5000


def chain_form(depth: int) -> Any:
    form: Any = None
    for number in range(depth):
        form = [f"t{number}", form], None
    return form


def test_a_long_chain_there_and_back() -> None:
    form = chain_form(DEPTH)
    handle = result_from_tuple(form)
    assert isinstance(handle, AsyncResult)
    assert handle.as_list() == [f"t{number}" for number in reversed(range(DEPTH))]
    again = handle.as_tuple()
    for number in reversed(range(DEPTH)):
        (id, again), members = again
        assert (id, members) == (f"t{number}", None)
    assert again is None


def test_groups_within_groups_and_their_parents() -> None:
    members = [(("a", None), None), [["b", None], None]]
    group = result_from_tuple((("outer", (("before", None), None)), [(("inner", None), members)]))
    assert isinstance(group, GroupResult)
    inner = group.results[0]
    assert isinstance(inner, GroupResult)
    assert [member.id for member in inner.results] == ["a", "b"]
    assert group.parent == AsyncResult("before")
    assert group.as_list() == ["outer", "inner", "a", "b", "before"]
    assert result_from_tuple(group.as_tuple()) == group


def test_many_levels_of_groups() -> None:
    form: Any = ("leaf", None)
    for number in range(DEPTH):
        form = [f"g{number}", None], [form]
    node = result_from_tuple(form)
    depth = 0
    while isinstance(node, GroupResult):
        node, depth = node.results[0], depth + 1
    assert (node.id, depth) == ("leaf", DEPTH)


def test_a_handle_is_given_back_and_may_be_a_part() -> None:
    handle = AsyncResult("t")
    assert result_from_tuple(handle) is handle
    group = result_from_tuple((("g", handle), [handle]))
    assert isinstance(group, GroupResult)
    assert group.parent is group.results[0] is handle


async def test_the_children_of_a_record_may_be_chains() -> None:
    async with connect("memory://") as backend:

        class Request:
            children = [result_from_tuple(chain_form(200))]

        await backend.mark_as_done("t", 1, request=Request())
        (child,) = await backend.result("t").children() or []
        assert len(child.as_list()) == 200
        assert child.backend is backend  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "children", [VAGUE, [VAGUE], [[["t", VAGUE], None]], [[["g", None], VAGUE]], {"t": None}, "t", 5, 0]
)
async def test_children_of_any_other_kind_are_an_error_of_their_record(children: Any) -> None:
    async with connect("memory://") as backend:
        payload = json.dumps({"status": "SUCCESS", "result": 1, "children": children, "task_id": "t"}).encode()
        await engine_of(backend).put(backend.task_key("t"), payload, None)
        handle = backend.result("t")
        assert await handle.get(timeout=10) == 1
        for look in (handle.children, handle.build_graph, handle.get_leaf):
            with pytest.raises(ResultDecodeError, match="the children of task t are not in Celery's form: "):
                await look()


async def test_a_saved_group_of_any_other_kind_is_an_error_that_names_it() -> None:
    async with connect("memory://") as backend:
        payload = json.dumps({"result": [["g\x1b[2J", VAGUE], []]}).encode()
        await engine_of(backend).put(backend.group_key("g\x1b[2J"), payload, None)
        with pytest.raises(ResultDecodeError, match=r"the saved group g\\x1b\[2J is not in Celery's form") as caught:
            await GroupResult.restore("g\x1b[2J", backend)
        assert str(caught.value).isprintable()


async def test_ids_of_groups_are_shown_without_control_characters() -> None:
    """A record names them, and they have no part in a key."""
    async with connect("memory://") as backend:
        children = [[["g\x1b[2J", None], [[["m", None], None]]]]
        payload = json.dumps({"status": "SUCCESS", "result": 1, "children": children, "task_id": "t"}).encode()
        await engine_of(backend).put(backend.task_key("t"), payload, None)
        with pytest.raises(NotReady, match=r"g\\x1b\[2J still runs") as caught:
            await backend.result("t").build_graph()
        assert str(caught.value).isprintable()


def contains_itself() -> Any:
    form: list[Any] = [["t", None], None]
    form[0][1] = form
    return form


def is_a_member_of_itself() -> Any:
    form: list[Any] = [["g", None], []]
    form[1].append(form)
    return form


@pytest.mark.parametrize(
    "form",
    [
        5, None, "id", [], [1], ["id", None, None], [["id", None]], [[None, None], None], [["", None], None],
        [["id", 5], None], [[5, None], []], [[["id"], None], []], [["id", None], 5], [["id", None], [5]],
        [{"id": 1}, None], contains_itself(), is_a_member_of_itself(),
    ],
)  # fmt: skip
def test_what_is_not_of_that_form(form: Any) -> None:
    with pytest.raises(ValueError, match="not the tuple form of a result"):
        result_from_tuple(form)


def test_the_error_about_a_deep_form_is_short() -> None:
    with pytest.raises(ValueError, match="not the tuple form of a result") as caught:
        result_from_tuple([["top", chain_form(DEPTH)], 5])
    assert len(str(caught.value)) < 300
