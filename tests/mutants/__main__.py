"""Break the waiting core, and the web part, in small ways, and see whether the tests notice: ``python3 dev mutants``.

A mutant is one of the modules below with one change: a statement taken out, a condition turned round, a comparison,
an operator or a constant replaced. A sample of all that are possible is tried, each with the tests that run the changed
lines, until one of them fails or hangs. A mutant that all of them pass with has survived: either a test is missing, or
the change makes no difference (a shortcut for speed, a message, a number that is a matter of taste). Those have to be
read one by one. The sample is the same for the same seed and sources.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from .mutations import mutations
from .trials import Outcome, Trials

ROOT = Path(__file__).parents[2]
CORE = [
    "asyncresult/_storage/waiters.py",
    "asyncresult/_storage/delivery.py",
    "asyncresult/_storage/rounds.py",
    "asyncresult/_handles/joins.py",
    "asyncresult/_handles/handle.py",
    "asyncresult/_handles/known.py",
    "asyncresult/_handles/waiting.py",
    "asyncresult/_handles/feeds.py",
    "asyncresult/_handles/streams.py",
    "asyncresult/_redis/wire.py",
]
WEB = [f"asyncresult/web/{name}.py" for name in ("documents", "endpoints", "settings", "streams", "tokens")]
#: Those that run the modules in their own process. The contract is run over memory alone, which is quickest.
CORE_TESTS = [
    *("-k", "memory or not test_contract", "tests/backends/test_jobs.py"),
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("tests/backends/test_contract*.py"))),
    *(
        f"tests/test_{name}.py"
        for name in (
            *("endings", "feeds", "forms", "futures", "handle", "joins", "streams", "updates", "waiters", "wire"),
            *("delivery", "entries", "graph", "measured", "polling", "probe", "reading", "rounds", "sets_model"),
            "subscriber",
        )
    ),
]
WEB_TESTS = ["tests/web"]
PYTEST = ["-q", "--capture=no", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=0"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev mutants", description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=4, help="so many at a time: most tests wait for something")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no other after so many")
    parser.add_argument("--module", action="append", metavar="PATH", help="only this one; may be repeated")
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="only these of the sample")
    parser.add_argument("--control", action="store_true", help="make none of the changes: nothing may be noticed")
    parser.add_argument("--tests", nargs=argparse.REMAINDER, help="other tests: what follows goes to pytest")
    options = parser.parse_args()
    modules: list[str] = options.module or [*CORE, *WEB]
    every = [mutation for module in modules for mutation in mutations(ROOT / module)]
    sample = random.Random(options.seed).sample(every, min(options.count, len(every)))
    numbers = options.only or range(1, len(sample) + 1)
    tests = options.tests or [
        *(CORE_TESTS if set(modules) & set(CORE) else []),
        *(WEB_TESTS if set(modules) & set(WEB) else []),
    ]
    if not tests:
        parser.error("for these modules there is no list of tests: give --tests")
    tried = [sample[number - 1] for number in numbers]
    began = time.monotonic()
    out = os.fdopen(os.dup(1), "w")
    ends: Counter[str] = Counter()

    def say(line: str) -> None:
        print(line, file=out, flush=True)

    def report(i: int, outcome: Outcome) -> None:
        number, mutation = numbers[i], tried[i]
        ends[outcome.end] += 1
        place = f"{mutation.path.relative_to(ROOT)}:{mutation.line} {mutation.name}"
        say(f"{number:4}/{len(sample)} {outcome.end:8} {place} ({outcome.test or f'{outcome.tests} tests'})")
        if outcome.test is None and not options.control:
            say("\n".join("      " + line for line in mutation.difference()))

    until = began + 60 * options.minutes
    trials = Trials(
        _names(modules),
        tried,
        control=options.control,
        jobs=options.jobs,
        until=until,
        log=say,
        report=report,
    )
    status, log = _run_silently([*PYTEST, *tests], trials)
    if status:
        say(log)
    say(f"{ends.total()} of {len(every)} mutants in {(time.monotonic() - began) / 60:.0f} min: {dict(ends)}")
    return status


def _names(modules: list[str]) -> list[str]:
    return [module.removesuffix(".py").replace("/", ".") for module in modules]


def _run_silently(arguments: list[str], plugin: Trials) -> tuple[int, str]:
    """The status of pytest, and what was written meanwhile, by the forks as well."""
    kept = {fd: os.dup(fd) for fd in (1, 2)}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        for fd in kept:
            os.dup2(log.fileno(), fd)
        try:
            status = pytest.main(arguments, plugins=[plugin])
        finally:
            sys.stdout.flush()
            for fd, copy in kept.items():
                os.dup2(copy, fd)
                os.close(copy)
        log.seek(0)
        return int(status), log.read()


if __name__ == "__main__":
    sys.exit(main())
