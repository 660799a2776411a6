"""Slots: who owns what, and what a redirection means. No server is needed."""

from __future__ import annotations

from typing import Any

import pytest

from asyncresult._redis.address import Address
from asyncresult._redis.exceptions import AskError, MovedError, ResponseError
from asyncresult._redis.slots import Redirected, Slots, read_redirection
from asyncresult._storage.keys import SLOTS, slot_of

A, B, C = (Address(name, 7000) for name in "abc")


def described(*ranges: tuple[int, int, Address]) -> list[list[Any]]:
    """An answer to CLUSTER SLOTS; each range with a replica, which is of no interest."""
    return [
        [first, last, [node.host.encode(), node.port, b"id", []], [b"replica", 1, b"id", []]]
        for first, last, node in ranges
    ]


def halves() -> Slots:
    slots = Slots()
    slots.replace(described((0, SLOTS // 2 - 1, A), (SLOTS // 2, SLOTS - 1, B)), given_by=A)
    return slots


def test_nothing_is_known_at_first() -> None:
    slots = Slots()
    assert slots.owner_of(b"x") is None
    assert slots.primaries == frozenset()
    assert slots.by_owner([(b"x", 1), (b"y", 2)]) == {None: [1, 2]}


def test_a_slot_at_either_end_of_a_range_belongs_to_it() -> None:
    keys = {slot_of(key): key for key in (b"%d" % number for number in range(300_000))}
    slots = halves()
    owners = [slots.owner_of(keys[slot]) for slot in (0, SLOTS // 2 - 1, SLOTS // 2, SLOTS - 1)]
    assert owners == [A, A, B, B]


def test_what_belongs_together_keeps_its_order() -> None:
    slots = halves()
    keys = [b"%d" % number for number in range(50)]
    groups = slots.by_owner((key, key) for key in keys)
    assert set(groups) == {A, B}
    for node, group in groups.items():
        assert group == [key for key in keys if slots.owner_of(key) == node]


def test_the_same_answer_again_changes_nothing() -> None:
    slots = halves()
    same = described((0, SLOTS // 2 - 1, A), (SLOTS // 2, SLOTS - 1, B))
    assert not slots.replace(same, given_by=A)
    assert slots.replace(described((0, SLOTS - 1, C)), given_by=A)
    assert slots.primaries == {C}


@pytest.mark.parametrize("name", [None, b""])
def test_a_node_without_a_name_is_the_one_that_was_queried(name: bytes | None) -> None:
    slots = Slots()
    slots.replace([[0, SLOTS - 1, [name, 7001, b"id"]]], given_by=A)
    assert slots.owner_of(b"x") == Address("a", 7001)


def test_a_hole_has_no_owner() -> None:
    slots = halves()
    slots.replace(described((0, SLOTS // 2 - 1, A)), given_by=A)
    keys = [b"%d" % number for number in range(50)]
    assert {slots.owner_of(key) for key in keys if slot_of(key) >= SLOTS // 2} == {None}


def test_moved_names_the_new_owner_of_the_slot() -> None:
    slots = halves()
    redirected = read_redirection(MovedError(f"{slot_of(b'x')} c:7000"))
    assert redirected == Redirected(slot_of(b"x"), C, once=False)
    slots.moved(redirected)
    assert slots.owner_of(b"x") == C
    # The nodes themselves are known from CLUSTER SLOTS, which is queried next, and which differs even if C is gone.
    assert slots.primaries == {A, B}
    assert slots.replace(described((0, SLOTS // 2 - 1, A), (SLOTS // 2, SLOTS - 1, B)), given_by=A)


def test_moved_to_a_node_without_a_name_leaves_the_owner() -> None:
    slots = halves()
    owner = slots.owner_of(b"x")
    redirected = read_redirection(MovedError(f"{slot_of(b'x')} :7000"))
    assert redirected == Redirected(slot_of(b"x"), None, once=False)
    slots.moved(redirected)
    assert slots.owner_of(b"x") == owner


def test_an_ask_redirection_is_for_once() -> None:
    assert read_redirection(AskError(f"{slot_of(b'x')} c:7000")) == Redirected(slot_of(b"x"), C, once=True)


@pytest.mark.parametrize("reply", [b"value", None, 0, [b"x"], ResponseError("x"), AskError("5 :7000")])
def test_any_other_reply_is_final(reply: Any) -> None:
    assert read_redirection(reply) is None
