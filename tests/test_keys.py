"""Every key and channel: Celery's byte for byte, ours beside them on the same node of a cluster."""

from __future__ import annotations

import pytest

from asyncresult._storage.keys import HISTORY, REVOKE, SENT, Keys, slot_of

#: Braces that make a hash tag, and some that do not: nothing, or no brace at all, between the first two.
IDS = [
    "3f2c",
    "a.history",
    "{tag}.x",
    "x{y}z",
    "ü",
    "own.note",
    "}{",
    "{}",
    "{",
    "}",
    "{}{x}",
    "a}b}c",
    "{.history",
    "}x{y}",
]


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        ("", b"celery-task-meta-t"),
        ("app", b"app_celery-task-meta-t"),
        ("app_", b"app_celery-task-meta-t"),
        ("app:", b"app:celery-task-meta-t"),
        ("app-", b"app-celery-task-meta-t"),
        ("app.", b"app.celery-task-meta-t"),
    ],
)
def test_the_prefix_follows_celery_s_rule(prefix: str, key: bytes) -> None:
    keys = Keys(prefix)
    assert keys.task_key("t") == key
    assert keys.group_key("g") == key.replace(b"task-meta-t", b"taskset-meta-g")


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("prefix", ["app", "}", "{}"])
def test_what_is_beside_a_record_is_on_its_node_and_is_no_record(id: str, prefix: str) -> None:
    keys = Keys(prefix)
    record = keys.task_key(id)
    assert keys.is_task_key(record)
    assert keys.task_of(record) == id
    beside = [keys.key_beside(id, what) for what in (HISTORY, REVOKE, SENT)]
    beside += [keys.own_key(id, "note"), keys.reply_key(id, "7f")]
    assert {slot_of(key) for key in beside} == {slot_of(record)}
    assert len({record, *beside}) == 6
    assert not any(keys.is_task_key(key) for key in beside)
    if "}" not in prefix:
        assert all(
            key.startswith((b"app_celery-task-meta-", b"{app_celery-task-meta-")) for key in beside
        )  # as ACLs do


def test_a_group_is_no_task() -> None:
    keys = Keys("")
    key = keys.group_key("g")
    assert keys.is_group_key(key)
    assert keys.group_of(key) == "g"
    assert not keys.is_task_key(key)
    assert not keys.is_group_key(keys.task_key("g"))


@pytest.mark.parametrize("name", ["", "1", "a-b", "a.b", "a" * 65, "a\n"])
def test_a_name_that_could_be_mistaken_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits and underscores"):
        Keys("").own_key("t", name)


@pytest.mark.parametrize("id", [None, 5, "\ud800"])
def test_what_is_no_id(id: object) -> None:
    with pytest.raises(ValueError, match="not a task id"):
        Keys("").task_key(id)  # type: ignore[arg-type]
