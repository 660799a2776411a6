"""A ResultSet driven at random against a model that a child could check: a list of names, and what has ended."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from asyncresult import AsyncResult, ResultSet, connect

NAMES = st.sampled_from([f"t{n}" for n in range(6)])


class Sets(RuleBasedStateMachine):
    """``members`` and ``ended`` are the model; a join and a stream may be under way."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.members: list[str] = []
        self.ended: dict[str, int | Exception] = {}

    @initialize()
    def begin(self) -> None:
        async def make() -> None:
            self.backend = connect("memory://")
            self.set: ResultSet[int] = ResultSet([])
            self.joins: list[tuple[list[str], asyncio.Task[list[Any]]]] = []

        self.runner.run(make())

    def teardown(self) -> None:
        async def end() -> None:
            for _, join in self.joins:
                join.cancel()
            await asyncio.gather(*(join for _, join in self.joins), return_exceptions=True)
            assert self.backend.stats().pending == 0, "nothing is waited for any more"
            await self.backend.aclose()

        if hasattr(self, "backend"):
            self.runner.run(end())
        self.runner.close()

    # -- members

    @rule(name=NAMES)
    def add(self, name: str) -> None:
        self.set.add(self.backend.result(name))
        if name not in self.members:
            self.members.append(name)

    @rule(name=NAMES)
    def discard(self, name: str) -> None:
        self.set.discard(name)
        if name in self.members:
            self.members.remove(name)

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        try:
            self.set.remove(AsyncResult(name))
        except KeyError:
            assert name not in self.members
        else:
            self.members.remove(name)

    @rule()
    def clear(self) -> None:
        self.set.clear()
        self.members.clear()

    # -- tasks

    @rule(name=NAMES, fails=st.booleans())
    def end(self, name: str, fails: bool) -> None:
        async def store() -> None:
            if fails:
                await self.backend.mark_as_failure(name, ValueError(name))
            else:
                await self.backend.mark_as_done(name, len(name))
            await asyncio.sleep(0)

        self.runner.run(store())
        # A failure may become a success, a success never changes; but a handle keeps the first end it saw.
        if not isinstance(self.ended.get(name), int):
            self.ended[name] = ValueError(name) if fails else len(name)

    # -- questions

    def _known(self, handle: AsyncResult[int]) -> int | Exception | None:
        """What the model expects of a member: the first end that its handle has seen, else the stored one."""
        if handle.done():
            return handle.exception or handle.value
        return self.ended.get(handle.id)

    @rule()
    def predicates(self) -> None:
        expected = [self._known(handle) for handle in self.set]

        async def ask() -> tuple[bool, bool, bool, bool, int]:
            rs = self.set
            return (
                await rs.ready(),
                await rs.successful(),
                await rs.failed(),
                await rs.waiting(),
                await rs.completed_count(),
            )

        good = [outcome for outcome in expected if isinstance(outcome, int)]
        bad = [outcome for outcome in expected if isinstance(outcome, Exception)]
        assert self.runner.run(ask()) == (
            None not in expected,
            len(good) == len(expected),
            bool(bad),
            None in expected,
            len(good),
        )

    @rule()
    def look_at_all(self) -> None:
        expected = [self._known(handle) for handle in self.set]

        async def get() -> Any:
            try:
                return await self.set.get(timeout=0, return_exceptions=True)
            except TimeoutError:
                return None

        got = self.runner.run(get())
        if None in expected:
            assert got is None
        else:
            assert [str(value) for value in got] == [str(value) for value in expected]

    @rule()
    def begin_a_join(self) -> None:
        async def begin() -> None:
            join = asyncio.ensure_future(ResultSet(self.set.results).get(return_exceptions=True))
            self.joins.append((list(self.members), join))
            for _ in range(5):  # the loop must turn for it to begin
                await asyncio.sleep(0)

        self.runner.run(begin())

    @invariant()
    def members_agree(self) -> None:
        if hasattr(self, "set"):
            assert [handle.id for handle in self.set] == self.members
            assert len(self.set) == len(self.members)

    @invariant()
    def a_join_is_done_when_its_members_are(self) -> None:
        async def turn() -> None:
            for _ in range(10):
                await asyncio.sleep(0)

        if not hasattr(self, "joins"):
            return
        self.runner.run(turn())
        for names, join in self.joins:
            assert join.done() == all(name in self.ended for name in names)
            if join.done():
                assert len(join.result()) == len(names)


Sets.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestSets = Sets.TestCase
