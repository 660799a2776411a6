"""Results that were there from the start, in the blocking face."""

from __future__ import annotations

import pytest

from asyncresult import TaskRevoked
from asyncresult.sync import EagerResult
from tests.sync.waiting import FOREVER


class TestEager:
    def test_value(self) -> None:
        result = EagerResult("t", 5, "SUCCESS", None, "tests.add")
        assert (result.get(), result.state, result.result, result.name) == (5, "SUCCESS", 5, "tests.add")
        assert result.ready()
        assert result.successful()
        assert not result.supports_native_join
        assert list(result.collect()) == [(result, 5)]
        assert result.then(lambda ended: ended.result).result(FOREVER) == 5

    def test_failure_and_revocation(self) -> None:
        result = EagerResult("t", ValueError("no"), "FAILURE")
        with pytest.raises(ValueError, match="no"):
            result.get(disable_sync_subtasks=False)
        result.revoke()
        assert result.state == "REVOKED"
        with pytest.raises(TaskRevoked):
            result.get()

    def test_retry(self) -> None:
        result = EagerResult("t", ValueError("again"), "RETRY")
        assert result.ready()
        assert result.get() is None
