"""What sentinels answer, and what follows from it, without any sentinel."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from asyncresult._redis import sentinel as module
from asyncresult._redis.address import Address
from asyncresult._redis.backoff import Health
from asyncresult._redis.exceptions import ConnectionError, ResponseError
from asyncresult._redis.options import Options
from asyncresult._redis.sentinel import Sentinel, _Announcer

FIRST, OTHER = Address("10.0.0.1", 6379), Address("10.0.0.2", 6379)
NAMED = [b"10.0.0.1", b"6379"]


@pytest.fixture
def sentinel(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of two sentinels, whose answers are in ``answers``; ``roles`` are those of the servers that they name."""
    made = cast(Any, object.__new__(Sentinel))
    made.answers, made.roles = {}, {}

    async def query(
        options: Options, address: Address, tls: object, *commands: tuple[Any, ...], patience: object
    ) -> list[Any]:
        answer = made.roles[address] if commands[0][0] == "ROLE" else made.answers[address]
        if callable(answer):
            answer = answer()
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    monkeypatch.setattr(module, "query", query)
    sentinels = (Address("s1", 26379), Address("s2", 26379))
    made.__dict__.update(
        _options=Options((), service="main", min_other_sentinels=1),
        _sentinels=Options(sentinels),
        _sentinel_tls=None,
        _links=type("Links", (), {"tls": None, "name": "sentinel://main", "health": Health()}),
        _patience=None,
        _news=0,
        _checking=None,
        _subscribed_at=None,
        _connected_to=None,
        _round=None,
    )
    return made


def facts(epoch: int, others: int = 1) -> list[bytes]:
    return [b"config-epoch", b"%d" % epoch, b"num-other-sentinels", b"%d" % others]


async def resolved(sentinel: Any, first: Any, second: Any) -> Address:
    sentinel._loop = asyncio.get_running_loop()
    sentinel.answers = dict(zip(sentinel._sentinels.addresses, (first, second), strict=True))
    found: Address = await sentinel._resolve()
    return found


async def test_the_newest_configuration_of_those_that_know_enough_others(sentinel: Any) -> None:
    sentinel.roles = {FIRST: [[b"master", 0, []]], OTHER: [[b"master", 0, []]]}
    other = [b"10.0.0.2", b"6379"]
    assert await resolved(sentinel, [NAMED, facts(1)], [other, facts(2)]) == OTHER
    assert await resolved(sentinel, [NAMED, facts(1)], [other, facts(2, others=0)]) == FIRST
    sentinel._options = Options((), service="main")
    assert await resolved(sentinel, [NAMED, ResponseError("no permission")], OSError("away")) == FIRST


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([NAMED, facts(1, others=0)], "s1:26379 knows too few other sentinels"),
        ([None, None], "s1:26379 does not know the service 'main'"),
        ([ResponseError("IDONTKNOW"), None], "IDONTKNOW"),
    ],
)
async def test_a_sentinel_whose_answer_does_not_count(sentinel: Any, answer: Any, words: str) -> None:
    with pytest.raises(ConnectionError, match=f"no sentinel names a primary .*{words}"):
        await resolved(sentinel, answer, OSError("away"))


async def test_none_of_them_is_a_sentinel_that_knows_the_service(sentinel: Any) -> None:
    """A mistake in the settings: the URL leads to the data servers, or the name is misspelt."""
    unknown = ResponseError("ERR unknown command 'SENTINEL', with args beginning with: 'GET-MASTER-ADDR-BY-NAME'")
    with pytest.raises(ResponseError, match="s1:26379 is no sentinel: ERR unknown command 'SENTINEL'; s2:26379 does"):
        await resolved(sentinel, [unknown, unknown], [None, None])
    sentinel._links.health.proven = True  # it did once, so this passes
    with pytest.raises(ConnectionError, match="no sentinel names a primary"):
        await resolved(sentinel, [unknown, unknown], [None, None])


async def test_who_is_named_has_to_be_a_primary(sentinel: Any) -> None:
    sentinel.roles = {FIRST: [[b"slave", b"10.0.0.2", 6379, b"connected", 0]]}
    with pytest.raises(ConnectionError, match=r"the sentinels name 10\.0\.0\.1:6379, which is not a primary"):
        await resolved(sentinel, [NAMED, facts(1)], [NAMED, facts(1)])


async def test_a_failover_that_is_announced_meanwhile_makes_the_answer_void(sentinel: Any) -> None:
    roles = [[[b"slave"]], [[b"master", 0, []]]]

    def role() -> Any:
        if len(roles) == 2:
            sentinel.announced(FIRST)
        return roles.pop(0)

    sentinel.roles = {FIRST: role}
    assert await resolved(sentinel, [NAMED, facts(1)], [NAMED, facts(1)]) == FIRST
    assert roles == []


async def test_a_sentinel_that_is_connected_again_has_missed_what_it_published(sentinel: Any) -> None:
    left: list[Address] = []
    sentinel._primary_is = left.append
    sentinel.roles = {FIRST: [[b"master", 0, []]]}
    await resolved(sentinel, [NAMED, facts(1)], OSError("away"))
    announcer = cast(Any, object.__new__(_Announcer))
    announcer.__dict__.update(_topology=sentinel, _subscribed_before=False, _service=b"main")
    announcer.acked([b"+switch-master"])
    assert not sentinel._checking
    announcer.acked([b"+switch-master"])
    announcer.acked([b"+switch-master"])  # one look at a time
    await sentinel._checking
    assert left == [FIRST]
    sentinel.roles = {FIRST: OSError("away")}
    announcer.acked([b"+switch-master"])
    await sentinel._checking
    assert left == [FIRST]
    for news in (b"main 10.0.0.1 6379 10.0.0.2 6379", b"other 10.0.0.1 6379 10.0.0.2 6379", b"nonsense"):
        announcer.pushed_many([b"+switch-master", news])
    assert left == [FIRST, OTHER]
