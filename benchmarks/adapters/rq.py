"""RQ: a blocking read of each job's stream, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis
from rq.job import Job
from rq.results import Result

from .base import Adapter, Command

PATIENCE = 120  # s


class Rq(Adapter):
    blocking = True

    def __init__(self, url: str, variant: str) -> None:
        super().__init__(url, variant)
        self.redis = Redis.from_url(url)

    def result(self, id: str, value: Any) -> Any:
        return Result(id, Result.Type.SUCCESSFUL, self.redis, return_value=value)

    def commands(self, id: str, value: Any) -> list[Command]:
        fields = [item for pair in self.result(id, value).serialize().items() for item in pair]
        key = Result.get_key(id)
        return [("XADD", key, "MAXLEN", "~", 10, "*", *fields), ("EXPIRE", key, 500)]

    def one(self, id: str) -> Any:
        result = Job(id, connection=self.redis).latest_result(timeout=PATIENCE)
        assert result is not None
        return result.return_value

    def join(self, ids: Sequence[str]) -> list[Any]:
        return [self.one(id) for id in ids]

    def store(self, items: Sequence[tuple[str, Any]]) -> None:
        for id, value in items:
            self.result(id, value).save(500)

    store_each = store


adapter = Rq
