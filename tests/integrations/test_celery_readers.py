"""Readers, over what the clients of rarer stores answer: one request for many, parts of answers, what is not there."""

from __future__ import annotations

import base64
import json
import pickle
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from celery.backends.base import KeyValueStoreBackend
from celery.backends.cache import CacheBackend
from celery.backends.dynamodb import DynamoDBBackend
from celery.backends.mongodb import MongoBackend
from celery.result import AsyncResult, GroupResult

from asyncresult import ResultDecodeError
from asyncresult.codec import Codec
from asyncresult.integrations.celery.readers import Reader, reader_for
from asyncresult.integrations.celery.readers.keyvalue import DynamoDBReader, KeyValueReader, MemcachedReader
from asyncresult.integrations.celery.readers.mongodb import MongoReader
from asyncresult.integrations.celery.readers.pickled import load_plain


class Files(KeyValueStoreBackend):  # type: ignore[misc]
    """A store that takes text only, as some do."""

    def __init__(self, app: Celery) -> None:
        super().__init__(app=app)
        self.values: dict[str, str | bytes] = {}

    def get(self, key: Any) -> str | bytes | None:
        return self.values.get(bytes(key).decode())

    def set(self, key: Any, value: str | bytes) -> None:
        self.values[bytes(key).decode()] = value

    def delete(self, key: Any) -> None:
        self.values.pop(bytes(key).decode(), None)


@pytest.fixture
def app() -> Celery:
    return Celery("readers", broker="memory://", backend="cache+memory://", set_as_current=False)


def made_without_a_client(cls: type[Any], **attributes: Any) -> Any:
    """A backend of Celery's whose client library is not installed."""
    backend = object.__new__(cls)
    vars(backend).update(attributes)
    return backend


def test_groups_in_a_store_of_keys_and_values(app: Celery) -> None:
    backend = Files(app)
    reader = reader_for(backend, Codec())
    assert type(reader) is KeyValueReader
    assert reader.read_group("g") is None
    group = GroupResult("g", [AsyncResult("a", app=app), AsyncResult("b", app=app)], app=app)
    payload = Codec().encode_group(group.as_tuple())
    reader.write_group("g", payload)
    assert isinstance(backend.values["celery-taskset-meta-g"], str)
    assert reader.read_group("g") == payload
    assert backend.restore_group("g", cache=False) == group  # Celery finds it, too
    reader.delete_group("g")
    assert reader.read_group("g") is None


@pytest.mark.parametrize("method", ["close", "disconnect_all", None])
def test_the_client_of_memcached_is_closed_in_its_own_way(method: str | None) -> None:
    closed: list[str | None] = []
    client = SimpleNamespace(**{method: lambda: closed.append(method)}) if method else object()
    reader = MemcachedReader(SimpleNamespace(client=client), Codec())
    reader.close()
    assert closed == ([method] if method else [])


def test_memcached_is_not_sent_keys_that_it_refuses(app: Celery) -> None:
    asked: list[list[bytes]] = []

    def mget(keys: list[bytes]) -> Mapping[bytes, bytes | None]:
        asked.append(keys)
        return {key: b"{}" if key.endswith(b"good") else None for key in keys}

    backend = made_without_a_client(CacheBackend, get_key_for_task=lambda id: f"task-{id}".encode(), mget=mget)
    reader = reader_for(backend, Codec())
    assert isinstance(reader, MemcachedReader)
    assert reader.read(["good", "not there", "none", "x" * 250]) == {"good": b"{}"}
    assert asked == [[b"task-good", b"task-none"]]
    assert reader.read(["a b"]) == {}
    assert len(asked) == 1


class Table:
    """What DynamoDB's client answers: two items at a time, the rest is to be requested again."""

    def __init__(self, items: Mapping[str, Any]) -> None:
        self.items = items
        self.requested: list[list[str]] = []

    def batch_get_item(self, *, RequestItems: Any) -> Any:
        keys = [key["id"]["S"] for key in RequestItems["results"]["Keys"]]
        self.requested.append(keys)
        found = [
            {"id": {"S": key}, "result": {"B": self.items[key]}, "ttl": {"N": "1"}}
            for key in keys[:2]
            if key in self.items
        ]
        answer: dict[str, Any] = {"Responses": {"results": found}}
        if len(keys) > 2:
            answer["UnprocessedKeys"] = {"results": {"Keys": [{"id": {"S": key}} for key in keys[2:]]}}
        return answer


def test_a_busy_dynamodb_is_requested_again_for_the_rest() -> None:
    client = Table({"task-a": b"1", "task-c": "2"})
    backend = made_without_a_client(
        DynamoDBBackend,
        _client=client,
        client=client,
        table_name="results",
        _key_field=SimpleNamespace(name="id", data_type="S"),
        _value_field=SimpleNamespace(name="result", data_type="B"),
        get_key_for_task=lambda id: f"task-{id}",
    )
    reader = reader_for(backend, Codec())
    assert isinstance(reader, DynamoDBReader)
    assert reader.read(["a", "b", "c"]) == {"a": b"1", "c": b"2"}
    assert client.requested == [["task-a", "task-b", "task-c"], ["task-c"]]


class Collection:
    """A collection of MongoDB's, with one document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def find(self, query: Any) -> list[dict[str, Any]]:
        return [self.document] if self.document["_id"] in query["_id"]["$in"] else []


@pytest.mark.parametrize(("serializer", "result"), [("json", "[1, 2]"), ("bson", [1, 2]), ("json", None)])
def test_documents_of_mongodb(serializer: str, result: Any) -> None:
    document = {"_id": "t", "status": "SUCCESS", "result": result, "children": [], "args": None}
    closed: list[bool] = []
    backend = made_without_a_client(
        MongoBackend,
        collection=Collection(document),
        serializer=serializer,
        _connection=SimpleNamespace(close=lambda: closed.append(True)),
    )
    reader = reader_for(backend, Codec())
    assert isinstance(reader, MongoReader)
    found = reader.read(["t", "another"])
    assert list(found) == ["t"]
    assert Codec().decode("t", found["t"]).result == ([1, 2] if result else None)
    reader.close()
    assert closed == [True]
    backend._connection = None  # it has never connected
    reader.close()
    assert closed == [True]


class Unknown:
    """A backend of which nothing is known but what all have."""

    def __init__(self, app: Celery, fields: Mapping[str, Any]) -> None:
        self.app, self.fields = app, fields

    def _get_task_meta_for(self, task_id: str) -> Mapping[str, Any]:
        return self.fields

    def restore_group(self, group_id: str, *, cache: bool) -> GroupResult | None:
        return GroupResult("g", [AsyncResult("a", app=self.app)], app=self.app) if group_id == "g" else None


def test_any_backend_is_read_by_celerys_methods(app: Celery) -> None:
    child = AsyncResult("child", app=app)
    backend = Unknown(app, {"status": "SUCCESS", "result": 5, "children": [child, (("other", None), None)]})
    reader = reader_for(backend, Codec())
    assert type(reader) is Reader
    meta = Codec().decode("t", reader.read(["t"])["t"])
    assert (meta.result, meta.children) == (5, [[["child", None], None], [["other", None], None]])
    group = reader.read_group("g")
    assert group is not None
    assert json.loads(group)["result"] == [["g", None], [[["a", None], None]]]
    assert reader.read_group("h") is None


def test_a_value_that_has_no_place_in_the_format_is_a_failure_that_says_so(app: Celery) -> None:
    reader = Reader(Unknown(app, {"status": "SUCCESS", "result": object()}), Codec())
    meta = Codec().decode("t", reader.read(["t"])["t"])
    assert meta.status == "FAILURE"
    assert meta.result["exc_type"] == "ResultEncodeError"


# -- rows ---------------------------------------------------------------------------------------------------


def test_stamps_in_a_column() -> None:
    pytest.importorskip("sqlalchemy")
    from asyncresult.integrations.celery.readers.database import stamps

    cell = json.dumps({"stamped_headers": ["who"], "stamps": {"who": ["me"]}}).encode()
    assert stamps(Codec(), "t", cell) == {"stamped_headers": ["who"], "who": ["me"]}
    assert stamps(Codec(), "t", None) is None
    assert stamps(Codec(), "t", b"\x80\x04.") is None
    assert stamps(Codec(), "t", b"[]") is None


class Rows:
    """A manager of Django's: the rows of a table, after some queries that fail."""

    db = "default"

    def __init__(self, rows: list[tuple[Any, ...]], failures: int = 0) -> None:
        self.rows, self.failures = rows, failures

    def filter(self, **_: Any) -> Rows:
        return self

    def values_list(self, *_: str) -> list[tuple[Any, ...]]:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the server has closed the connection")
        return self.rows


@pytest.fixture
def django_reader(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Reader, list[str]]]:
    """Makes a reader over rows, and the list of what it has closed."""
    pytest.importorskip("django")
    from asyncresult.integrations.celery.readers import django

    closed: list[str] = []
    connection = SimpleNamespace(close=lambda: closed.append("default"))
    monkeypatch.setattr(django, "connections", {"default": connection})

    def make(tasks: Sequence[Any] = (), groups: Sequence[Any] = (), failures: int = 0) -> tuple[Reader, list[str]]:
        rows, others = Rows(list(tasks), failures), Rows(list(groups))
        models = {
            "TaskModel": SimpleNamespace(_default_manager=rows),
            "GroupModel": SimpleNamespace(_default_manager=others),
        }
        return django.DjangoReader(SimpleNamespace(**models), Codec()), closed

    return make


def task_row(*, meta: str | None, result: str = "5") -> tuple[Any, ...]:
    return ("t", "SUCCESS", result, None, "2026-01-02 03:04:05", "add", None, None, "worker", meta, "utf-8")


def test_a_row_whose_meta_cannot_be_read_has_its_result_all_the_same(django_reader: Any) -> None:
    readable = json.dumps({"children": [], "stamped_headers": ["who"]})
    for meta, extra in ((readable, ["who"]), ("{", None), ("5", None)):
        reader, _ = django_reader([task_row(meta=meta)])
        record = Codec().decode("t", reader.read(["t"])["t"])
        assert (record.result, record.name) == (5, "add")
        assert record.extra.get("stamped_headers") == extra


def test_a_connection_that_was_idle_for_too_long_is_made_anew_once(django_reader: Any) -> None:
    reader, closed = django_reader([task_row(meta=None)], failures=1)
    assert list(reader.read(["t"])) == ["t"]
    assert closed == ["default"]
    reader, closed = django_reader([], failures=2)
    with pytest.raises(ConnectionError):
        reader.read(["t"])


def test_groups_in_djangos_table(django_reader: Any) -> None:
    form = [["g", None], [[["a", None], None]]]
    text = json.dumps(form)
    for cell, encoding in ((text, "utf-8"), (base64.b64encode(text.encode()).decode(), "binary")):
        reader, _ = django_reader(groups=[(cell, encoding)])
        payload = reader.read_group("g")
        assert json.loads(payload)["result"] == form
    assert django_reader()[0].read_group("g") is None


def hashes_alike(many: int) -> list[int]:
    return [number * sys.hash_info.modulus for number in range(many)]


def nested_tuples() -> bytes:
    """Thirty tuples, each of the one before twice, as a pickle: its hash takes as long as it has values."""
    return b"\x80\x04K\x01\x85\x94" + b"".join(b"h%ch%c\x86\x94" % (number, number) for number in range(30)) + b"0"


SLOW_KEYS = {
    "numbers as keys": pickle.dumps(dict.fromkeys(hashes_alike(5000))),
    "one by one": b"\x80\x04}" + b"".join(b"I%d\nNs" % number for number in hashes_alike(2000)) + b".",
    "at once": b"\x80\x04(" + b"".join(b"I%d\nN" % number for number in hashes_alike(2000)) + b"d.",
    "in tuples": pickle.dumps({(number,): 1 for number in hashes_alike(2000)}),
    "decimals": pickle.dumps(dict.fromkeys(map(Decimal, hashes_alike(2000)))),
    "UUIDs": pickle.dumps(
        {UUID(int=number) for number in hashes_alike(50)} | {UUID(int=n) for n in hashes_alike(2000)}
    ),
    "a set": pickle.dumps(set(hashes_alike(5000))),
    "a frozen set": pickle.dumps(frozenset(hashes_alike(5000))),
    "sets of old protocols": pickle.dumps([set(hashes_alike(5000)), frozenset(hashes_alike(9))], 3),
    "an ordered mapping": pickle.dumps(OrderedDict.fromkeys(hashes_alike(5000))),
    "a key of tuples": nested_tuples() + b"}h\x1eNs.",
    "a member of tuples": nested_tuples() + b"(h\x1e\x91.",
}


@pytest.mark.parametrize("name", SLOW_KEYS)
def test_a_pickle_whose_keys_would_take_hours_is_refused(name: str) -> None:
    begun = time.thread_time()
    with pytest.raises(ValueError, match=r"too many numbers of one hash|references multiply"):
        load_plain(SLOW_KEYS[name])
    assert time.thread_time() - begun < 1


def test_large_numbers_are_keys_as_any_others() -> None:
    for value in ({2**80 + number: 1 for number in range(1000)}, {UUID(int=n) for n in range(1000)}, {(1, 2**70): "x"}):
        loaded = load_plain(pickle.dumps(value))
        assert len(loaded if isinstance(loaded, dict) else loaded.value) == len(value)


@pytest.mark.parametrize("mark", ["set", "frozenset"])
def test_sets_in_json_are_checked_likewise(mark: str) -> None:
    stored = {"__type__": f"asyncresult.{mark}", "__value__": hashes_alike(5000)}
    with pytest.raises(ResultDecodeError, match="too many numbers of one hash"):
        Codec().decode("t", json.dumps({"status": "SUCCESS", "result": stored}).encode())
