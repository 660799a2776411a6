"""Promises against a reference: the same operations on both, the same outcomes and order of callbacks.

The reference is Promises/A+ read literally: a queue of jobs, and per promise a list of what to put on it
when it settles. It has no loop, no tasks, no weak references, no error reports.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from asyncresult.promise import Promise, Settled
from tests.tools.promises import deferred, ticks

Outcome = tuple[str, Any]
CANCELLED: Outcome = ("cancelled", None)
CIRCLE: Outcome = ("rejected", "circle")


class Failure(Exception):
    pass


class Reference:
    """A promise of the reference."""

    def __init__(self, jobs: deque[Callable[[], None]]) -> None:
        self.jobs = jobs
        self.outcome: Outcome | None = None
        self.reactions: list[Callable[[], None]] = []
        self.waits_for: Reference | None = None  # by follow, then or finally

    def settle(self, outcome: Outcome) -> None:
        if self.outcome is None:
            self.outcome, self.waits_for = outcome, None
            self.jobs.extend(self.reactions)

    def when_done(self, job: Callable[[], None]) -> None:
        if self.outcome is None:
            self.reactions.append(job)
        else:
            self.jobs.append(job)

    def follow(self, other: Reference) -> None:
        if self.outcome is not None:
            return
        node: Reference | None = other
        while node is not None:
            if node is self:
                self.settle(CIRCLE)
                return
            node = node.waits_for
        if other.outcome is not None:
            self.settle(other.outcome)
        else:
            self.waits_for = other
            other.when_done(lambda: self.settle(other.known))

    @property
    def known(self) -> Outcome:
        assert self.outcome is not None
        return self.outcome


class Node:
    """A promise, its functions if it has any, and its reference."""

    def __init__(self, number: int, promise: Promise[Any], reference: Reference, *functions: Callable[[Any], None]):
        self.number = number
        self.promise = promise
        self.reference = reference
        self.functions = functions


#: What a callback does: return a value, raise, return or await another promise.
Action = tuple[Literal["return", "raise", "follow", "await", "coroutine"], Any]


class PromiseMachine(RuleBasedStateMachine):
    nodes = Bundle("nodes")
    roots = Bundle("roots")
    kinds = st.sampled_from(["return", "raise", "follow", "await", "coroutine"])

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda loop, context: None)
        asyncio._set_running_loop(self.loop)  # rules act within one job of the loop
        self.jobs: deque[Callable[[], None]] = deque()
        self.log: list[Any] = []
        self.expected_log: list[Any] = []
        self.all_nodes: list[Node] = []
        self.settled: dict[int, Outcome] = {}

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            for node in self.all_nodes:
                node.promise.cancel()
            self.run_loop()
            asyncio._set_running_loop(None)
            self.loop.close()

    def add(self, promise: Promise[Any], *functions: Callable[[Any], None]) -> Node:
        node = Node(len(self.all_nodes), promise, Reference(self.jobs), *functions)
        self.all_nodes.append(node)
        return node

    # -- the operations

    @rule(target=roots)
    def make(self) -> Node:
        return self.add(*deferred())

    @rule(root=roots, value=st.integers(0, 9))
    def resolve(self, root: Node, value: int) -> None:
        self.use(root, 0, value, lambda: root.reference.settle(("fulfilled", value)))

    @rule(root=roots, value=st.integers(0, 9))
    def reject(self, root: Node, value: int) -> None:
        self.use(root, 1, Failure(value), lambda: root.reference.settle(("rejected", value)))

    @rule(root=roots, other=st.one_of(nodes, roots))
    def resolve_with(self, root: Node, other: Node) -> None:
        self.use(root, 0, other.promise, lambda: root.reference.follow(other.reference))

    def use(self, root: Node, function: int, argument: Any, expect: Callable[[], None]) -> None:
        if root.functions:
            functions, root.functions = root.functions, ()
            functions[function](argument)
            functions[1 - function](Failure("second call"))
            expect()

    @rule(node=st.one_of(nodes, roots))
    def cancel(self, node: Node) -> None:
        assert node.promise.cancel() == (node.reference.outcome is None)
        node.reference.settle(CANCELLED)

    @rule(
        target=nodes,
        parent=st.one_of(nodes, roots),
        other=st.one_of(nodes, roots),
        success=st.none() | kinds,
        error=st.none() | kinds,
    )
    def then(self, parent: Node, other: Node, success: str | None, error: str | None) -> Node:
        number = len(self.all_nodes)
        node = self.add(
            parent.promise.then(
                self.callback(number, "on_success", success, other), self.callback(number, "on_error", error, other)
            )
        )
        reference = node.reference
        reference.waits_for = parent.reference

        def job() -> None:
            if reference.outcome is not None:
                return
            reference.waits_for = None
            state, value = outcome = parent.reference.known
            name, action = {
                "fulfilled": ("on_success", success),
                "rejected": ("on_error", error),
                "cancelled": ("", None),
            }[state]
            if action is None:
                reference.settle(outcome)
            else:
                self.expected_log.append((number, name, value))
                self.expect_action(reference, action, other.reference)

        parent.reference.when_done(job)
        return node

    @rule(target=nodes, parent=st.one_of(nodes, roots), other=st.one_of(nodes, roots), action=kinds)
    def finally_(self, parent: Node, other: Node, action: str) -> Node:
        number = len(self.all_nodes)
        callback = self.callback(number, "finally", action, other)
        assert callback is not None
        node = self.add(parent.promise.finally_(lambda: callback(None)))
        reference = node.reference
        reference.waits_for = parent.reference

        def job() -> None:
            if reference.outcome is not None:
                return
            self.expected_log.append((number, "finally", None))
            cleanup = Reference(self.jobs)
            reference.waits_for = cleanup
            cleanup.when_done(
                lambda: reference.settle(parent.reference.known if cleanup.known[0] == "fulfilled" else cleanup.known)
            )
            self.expect_action(cleanup, action, other.reference)

        parent.reference.when_done(job)
        return node

    @rule(
        target=nodes,
        kind=st.sampled_from(["all", "all_settled", "any", "race"]),
        items=st.lists(st.one_of(nodes, roots), min_size=1, max_size=3),
    )
    def join(self, kind: str, items: list[Node]) -> Node:
        node = self.add(getattr(Promise, kind)([item.promise for item in items]))
        reference = node.reference
        outcomes: dict[int, Outcome] = {}

        def job(index: int) -> None:
            if reference.outcome is not None:
                return
            outcomes[index] = state, value = items[index].reference.known
            complete = [outcomes[i] for i in range(len(items))] if len(outcomes) == len(items) else None
            decides = {
                "all": state != "fulfilled",
                "all_settled": False,
                "any": state == "fulfilled",
                "race": True,
            }
            if decides[kind]:
                reference.settle((state, value))
            elif complete is None:
                pass
            elif kind == "all":
                reference.settle(("fulfilled", [value for _, value in complete]))
            elif kind == "all_settled":
                settled = [("rejected", None) if state == "cancelled" else (state, value) for state, value in complete]
                reference.settle(("fulfilled", settled))
            else:
                reasons = [value for state, value in complete if state == "rejected"]
                reference.settle(("rejected", reasons) if reasons else CANCELLED)

        for index, item in enumerate(items):
            item.reference.when_done(partial(job, index))
        return node

    # -- what callbacks do, here and in the reference

    def callback(self, number: int, name: str, action: str | None, other: Node) -> Callable[[Any], Any] | None:
        async def awaiting() -> Any:
            return await other.promise

        async def returning() -> int:
            return 0

        def call(argument: Any) -> Any:
            self.log.append((number, name, plain(argument)))
            match action:
                case "raise":
                    raise Failure(number)
                case "follow":
                    return other.promise
                case "await":
                    return awaiting()
                case "coroutine":
                    return returning()
            return number

        return call if action is not None else None

    def expect_action(self, reference: Reference, action: str, other: Reference) -> None:
        number = next((node.number for node in self.all_nodes if node.reference is reference), None)
        match action:
            case "return":
                reference.settle(("fulfilled", number))
            case "raise":
                reference.settle(("rejected", self.expected_log[-1][0]))
            case "follow":
                reference.follow(other)
            case "coroutine":
                # One job for the task's step, one for its done callback.
                self.jobs.append(lambda: self.jobs.append(lambda: reference.settle(("fulfilled", 0))))
            case "await":
                self.jobs.append(lambda: self.expect_await(reference, other))

    def expect_await(self, reference: Reference, other: Reference) -> None:
        def finish() -> None:
            self.jobs.append(lambda: reference.settle(result()))

        def result() -> Outcome:
            return ("rejected", "circle") if other is reference else other.known

        if reference.outcome is not None:
            return
        if other is reference or other.outcome is not None:
            finish()
        else:
            other.when_done(finish)

    # -- the comparison

    @rule()
    def drain(self) -> None:
        self.run_loop()
        while self.jobs:
            self.jobs.popleft()()
        assert self.log == self.expected_log
        for node in self.all_nodes:
            if not node.promise.done():
                assert node.reference.outcome is None, node.number
            else:
                assert self.outcome_of(node.promise) == node.reference.outcome, node.number

    def run_loop(self) -> None:
        asyncio._set_running_loop(None)
        self.loop.run_until_complete(ticks(200))
        asyncio._set_running_loop(self.loop)

    @invariant()
    def what_is_settled_never_changes(self) -> None:
        for node in getattr(self, "all_nodes", ()):
            if node.promise.done():
                outcome = self.outcome_of(node.promise)
                assert self.settled.setdefault(node.number, outcome) == outcome

    def outcome_of(self, promise: Promise[Any]) -> Outcome:
        try:
            next(promise.__await__())
        except StopIteration as returned:
            return ("fulfilled", plain(returned.value))
        except asyncio.CancelledError:
            return CANCELLED
        except Exception as error:
            return ("rejected", plain(error))
        raise AssertionError("a settled promise yielded")


def plain(value: Any) -> Any:
    """A value or exception as the reference has it."""
    match value:
        case list():
            return [plain(item) for item in value]
        case Settled():
            return (value.status, plain(value.value if value.status == "fulfilled" else value.reason))
        case Failure():
            return value.args[0]
        case TypeError():
            return "circle"
        case RuntimeError():
            return "circle"  # awaited itself
        case asyncio.CancelledError():
            return None
        case ExceptionGroup():
            return [plain(error) for error in value.exceptions]
    return value


TestPromises = PromiseMachine.TestCase
TestPromises.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
