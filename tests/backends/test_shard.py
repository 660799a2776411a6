"""The keys of one primary of a cluster."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

from asyncresult import BackendPermissionError
from asyncresult._redis.shard import Shard


@pytest.fixture
def shard() -> Any:
    return Shard(mock.Mock(), mock.Mock(), mock.Mock(), mock.Mock())


def test_keys_are_subscribed_when_there_is_a_connection(shard: Any) -> None:
    shard.subscribe([b"a", b"b"])
    assert shard.wanted
    assert shard.give_up([b"a"]) == {b"a"}
    shard.subscriber.unsubscribe.assert_not_called()
    shard.connected()
    shard.subscriber.subscribe.assert_called_once_with([b"b"])
    assert shard.give_up([]) == set()
    shard.give_up([b"b"])
    shard.subscriber.unsubscribe.assert_called_once_with([b"b"])
    assert not shard.wanted


def test_a_key_that_is_refused_is_not_subscribed_again(shard: Any) -> None:
    shard.subscribe([b"a", b"b"])
    error = BackendPermissionError("NOPERM")
    shard.refused([b"a"], error)
    shard._table.refused.assert_called_once_with([b"a"], error)
    shard.connected()
    shard.subscriber.subscribe.assert_called_once_with([b"b"])
    shard.fail_all(error)
    assert shard._table.refused.call_args == mock.call([b"b"], error)
    assert not shard.wanted
