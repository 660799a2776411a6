"""Tries mutations in one process that has imported and collected everything: each in a fork of it.

A pytest plugin. In place of running what was collected, it runs every test once without a change, to record which lines
of the modules it runs. Then each mutation is put into the functions of a fork, and tried with those tests alone that
run its lines. What a test leaves behind, servers as well, is gone with its fork.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pytest
from coverage import Coverage

from .mutations import Mutation, codes

__all__ = ["End", "Functions", "Outcome", "Trials", "functions_of", "put_in"]

End = Literal["noticed", "hangs", "survived", "not run"]


class Outcome(NamedTuple):
    """How a trial ended: after which test that noticed, and how many tests run the lines of the mutation."""

    end: End
    test: str | None
    tests: int


@dataclass
class _Test:
    item: pytest.Item
    wants_server: bool
    seconds: float = 0.0
    fails: bool = False  # without any change
    lines: dict[str, set[int]] = field(default_factory=dict[str, set[int]])  # those that it runs, by path

    @property
    def limit(self) -> float:
        """Seconds after which it hangs."""
        return 10 + 5 * self.seconds

    def runs(self, mutation: Mutation) -> bool:
        return not self.lines.get(str(mutation.path), set()).isdisjoint(mutation.lines)


class Trials:
    """The plugin; pytest must be given neither ``--maxfail`` nor a timeout for faulthandler.

    Args:
        modules: The names of the modules to record.
        sample: What is tried.
        control: Make none of the changes: whatever is noticed shows that the tests, or the machine, are to blame.
        jobs: How many at a time.
        until: Begin no other after this time of ``time.monotonic()``.
        log: Called with a line about the tests.
        report: Called with the number in the sample of each mutation that was tried, and its outcome.
    """

    def __init__(
        self,
        modules: Sequence[str],
        sample: Sequence[Mutation],
        *,
        control: bool,
        jobs: int,
        until: float,
        log: Callable[[str], None],
        report: Callable[[int, Outcome], None],
    ) -> None:
        self._modules = modules
        self._sample = sample
        self._control = control
        self._jobs = jobs
        self._until = until
        self._log = log
        self._report = report

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("there are tests that cannot be collected")
        gc.unfreeze()  # it finds no frozen objects
        functions = functions_of(self._modules)
        tests = [_Test(item, _wants_server(item)) for item in session.items]
        gc.collect()
        gc.freeze()  # or the first collection in each fork copies all that was imported
        began = time.monotonic()
        self._record(tests)
        self._log(f"{len(tests)} tests recorded in {time.monotonic() - began:.0f} s")
        for test in tests:
            if test.fails:
                self._log(f"left out, because it fails without any change: {test.item.nodeid}")
        useful = [test for test in tests if test.lines and not test.fails]
        useful.sort(key=lambda test: (test.wants_server, test.seconds))  # the quick ones first
        self._try_all(useful, functions)
        return True

    def _record(self, tests: Sequence[_Test]) -> None:
        """Run the tests as they are, some of them in each of several forks."""
        shares = [tests[first :: self._jobs] for first in range(min(self._jobs, len(tests)))]
        forks = [_Fork(_recorder(share, self._modules)) for share in shares]
        for share, fork in zip(shares, forks, strict=True):
            os.waitpid(fork.pid, 0)
            for test, (seconds, fails, lines) in zip(share, fork.sent(), strict=True):
                test.seconds, test.fails = seconds, fails
                test.lines = {path: set(numbers) for path, numbers in lines.items()}

    def _try_all(self, tests: Sequence[_Test], functions: Functions) -> None:
        running: dict[int, tuple[int, _Fork]] = {}

        def finish_one() -> None:
            number, fork = running.pop(os.wait()[0])
            (outcome,) = fork.sent()
            self._report(number, Outcome(*outcome))

        for number, mutation in enumerate(self._sample):
            if time.monotonic() > self._until:
                break
            change = None if self._control else mutation
            fork = _Fork(_trial(change, [test for test in tests if test.runs(mutation)], functions))
            running[fork.pid] = number, fork
            if len(running) == self._jobs:
                finish_one()
        while running:
            finish_one()


# --- what the forks do -----------------------------------------------------------------------------

_Send = Callable[[object], None]
_Work = Callable[[_Send], None]
_PASSED, _FAILED, _HANGS = "passed", "failed", "hangs"


def _recorder(tests: Sequence[_Test], modules: Sequence[str]) -> _Work:
    """Sends of each test its seconds, whether it fails, and the lines that it runs, by path."""

    def work(send: _Send) -> None:
        paths = [path for module in modules if (path := importlib.import_module(module).__file__)]
        coverage = Coverage(data_file=None, config_file=False, include=paths)
        coverage.set_option("run:disable_warnings", ["no-data-collected"])
        coverage.start()
        session = tests[0].item.session
        ends: list[tuple[float, bool]] = []
        for number in range(len(tests)):
            coverage.switch_context(str(number))
            failures, began = session.testsfailed, time.monotonic()
            _run(tests, number)
            ends.append((time.monotonic() - began, session.testsfailed > failures))
        coverage.stop()
        lines: list[dict[str, list[int]]] = [{} for _ in tests]
        for path in paths:
            for line, contexts in coverage.get_data().contexts_by_lineno(path).items():
                for context in filter(None, contexts):  # "" is before the first test
                    lines[int(context)].setdefault(path, []).append(line)
        for (seconds, fails), found in zip(ends, lines, strict=True):
            send([seconds, fails, found])

    return work


def _trial(mutation: Mutation | None, tests: Sequence[_Test], functions: Functions) -> _Work:
    """Sends the :class:`Outcome`. A failure counts if the test fails once more, alone: the machine may be busy."""

    def work(send: _Send) -> None:
        if mutation is not None:
            put_in(mutation, functions)
        left = tests
        while left:
            end, number = _attempt(left)
            if end == _PASSED:
                break
            end, _ = _attempt([left[number]])
            if end != _PASSED:
                send(Outcome("noticed" if end == _FAILED else "hangs", left[number].item.nodeid, len(tests)))
                return
            left = left[number + 1 :]
        send(Outcome("survived" if tests else "not run", None, len(tests)))

    return work


def _attempt(tests: Sequence[_Test]) -> tuple[str, int]:
    """Run tests until one fails, in a fork: how they end, and the number of the last that was begun."""

    def work(send: _Send) -> None:
        session = tests[0].item.session
        session.config.option.maxfail = 1
        for number in range(len(tests)):
            send(number)
            faulthandler.dump_traceback_later(tests[number].limit, exit=True)
            _run(tests, number)
            if session.shouldfail:
                break
        send(_FAILED if session.shouldfail else _PASSED)

    fork = _Fork(work, own_group=True)
    try:
        os.waitpid(fork.pid, 0)
    finally:  # Ctrl-C does not reach the group
        with suppress(ProcessLookupError):
            os.killpg(fork.pid, signal.SIGKILL)
    *numbers, last = fork.sent()
    return (_HANGS, last) if isinstance(last, int) else (last, numbers[-1])


def _run(tests: Sequence[_Test], number: int) -> None:
    item = tests[number].item
    following = tests[number + 1].item if number + 1 < len(tests) else None
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)


def _wants_server(item: pytest.Item) -> bool:
    return any("server" in name or "redis" in name for name in getattr(item, "fixturenames", ()))


class _Fork:
    """A fork of this process, which does some work, and sends back anything that JSON has.

    With ``own_group`` it leads a process group, which can be killed as a whole.
    """

    def __init__(self, work: _Work, *, own_group: bool = False) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed by sent()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                if own_group:
                    os.setpgid(0, 0)
                work(self._send)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(0)

    def _send(self, what: object) -> None:
        self._file.write(json.dumps(what) + "\n")
        self._file.flush()

    def sent(self) -> list[Any]:
        """All of it, once the fork has ended."""
        with self._file as file:
            file.seek(0)
            return [json.loads(line) for line in file]


# --- changing functions that are there already -----------------------------------------------------

Functions = dict[tuple[str, str, int], list[types.FunctionType]]  # by file, name and line


def functions_of(modules: Sequence[str]) -> Functions:
    """All functions of the modules, wherever they are: methods, what properties and decorators hold."""
    paths = {importlib.import_module(module).__file__ for module in modules}
    found: Functions = {}
    for thing in gc.get_objects():  # isinstance() would ask proxies, which may raise: Django's settings
        if type(thing) is types.FunctionType and thing.__code__.co_filename in paths:
            found.setdefault(_key(thing.__code__), []).append(thing)
    if not found:
        raise RuntimeError("no function of the modules is there: no change would have an effect")
    return found


def put_in(mutation: Mutation, functions: Functions) -> None:
    for code in codes(mutation.code()):
        for function in functions.get(_key(code), ()):
            function.__code__ = code


def _key(code: types.CodeType) -> tuple[str, str, int]:
    return code.co_filename, code.co_qualname, code.co_firstlineno
