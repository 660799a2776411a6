"""Medians, ratios and targets of a run, as Markdown."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .contenders import CONTENDERS
from .scenarios import PEERS, SCENARIOS, Scenario

__all__ = ["TARGETS", "Samples", "Target", "markdown", "summary"]


class Samples:
    """The numbers of one run."""

    def __init__(self, results: dict[str, Any]) -> None:
        self._numbers: dict[tuple[str, str], list[dict[str, float]]] = {}
        self.failures: dict[tuple[str, str], str] = {}
        for sample in results["samples"]:
            place = sample["scenario"], sample["contender"]
            if "numbers" in sample:
                self._numbers.setdefault(place, []).append(sample["numbers"])
            else:
                self.failures[place] = sample["failed"].splitlines()[-1]

    def median(self, scenario: str, contender: str, metric: str) -> float | None:
        numbers = self._numbers.get((scenario, contender))
        return statistics.median(number[metric] for number in numbers) if numbers else None

    def metrics(self, scenario: str, contender: str) -> list[str]:
        return list(self._numbers[scenario, contender][0])

    def ratio(self, over: Place, under: Place) -> float | None:
        """The median of the repetitions' ratios: what stood side by side is compared, not medians of all."""
        pairs = zip(self._numbers.get(over[:2], []), self._numbers.get(under[:2], []), strict=False)
        ratios = [a[over[2]] / b[under[2]] for a, b in pairs if b[under[2]]]
        return statistics.median(ratios) if ratios else None


Place = tuple[str, str, str]
"""Scenario, contender, metric."""


@dataclass(frozen=True)
class Target:
    """``over / under``, or ``over`` itself, must be at most ``limit``; or not less, with ``at_least``."""

    text: str
    over: Place
    under: Place | None
    limit: float
    at_least: bool = False

    def value(self, samples: Samples) -> float | None:
        return samples.ratio(self.over, self.under) if self.under else samples.median(*self.over)

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True)
class AheadOfAll(Target):
    """``over`` must be so many times as much as each of ``peers`` that was measured; ``under`` is none."""

    peers: tuple[Place, ...] = ()

    def value(self, samples: Samples) -> float | None:
        ratios = [ratio for peer in self.peers if (ratio := samples.ratio(self.over, peer)) is not None]
        return min(ratios, default=None)


def _targets() -> Iterator[Target]:
    def ours(scenario: str, metric: str = "wall_s") -> Place:
        return scenario, "asyncresult", metric

    def of(contender: str, scenario: str, metric: str = "wall_s") -> Place:
        return scenario, contender, metric

    yield Target("one result, p50, of raw", ours("single", "p50_ms"), of("raw", "single", "p50_ms"), 1.15)
    yield Target("one result, p99, of raw", ours("single", "p99_ms"), of("raw", "single", "p99_ms"), 2)
    yield Target("one result, p50, of Celery's get", ours("single", "p50_ms"), of("celery", "single", "p50_ms"), 0.5)
    for n in (10_000, 50_000):
        name = f"join-{n}"
        yield Target(f"join of {n:,}, of raw", ours(name), of("raw", name), 1.5)
        yield Target(f"join of {n:,}, CPU of a result, us", ours(name, "cpu_each_us"), None, 4 if n == 10_000 else 6)
        yield Target(f"join of {n:,}, faster than Celery, times", of("celery", name), ours(name), 30, at_least=True)
        yield Target(
            f"join of {n:,}, faster than Celery without its sleep, times",
            of("celery-nosleep", name),
            ours(name),
            10,
            at_least=True,
        )
    for n, limit in ((10_000, 1.3), (50_000, 2.5)):
        yield Target(f"gather of {n:,}, of raw", ours(f"gather-{n}"), of("raw", f"gather-{n}"), limit)
    yield Target("10,000 stored: fetch, of raw", ours("fetch-10000"), of("raw", "fetch-10000"), 1.8)
    yield Target("10,000 stored: join, of raw", ours("join-stored-10000"), of("raw", "join-stored-10000"), 3)
    yield Target(
        "10,000 stored: join, faster than Celery, times",
        of("celery", "join-stored-10000"),
        ours("join-stored-10000"),
        40,
        at_least=True,
    )
    yield Target("a waiting handle in a join, kB", ours("waiting-10000", "kb_each"), None, 0.7)
    yield Target("a waiting handle in a task, kB", ours("waiting-tasks-10000", "kb_each"), None, 2)
    yield Target("connections with 10,000 waiting", ours("waiting-10000", "connections"), None, 2)
    yield Target("idle CPU with 10,000 waiting, %", ours("waiting-10000", "idle_cpu_percent"), None, 0.5)
    yield Target("idle CPU with 100,000 waiting, %", ours("waiting-100000", "idle_cpu_percent"), None, 0.5)

    def ahead(text: str, contender: str, scenario: str) -> AheadOfAll:
        peers = tuple((scenario, peer, "per_s") for peer in ("celery", *PEERS))
        return AheadOfAll(text, (scenario, contender, "per_s"), None, 1, at_least=True, peers=peers)

    for text, name in (("with store_many", "store-many-1000"), ("at a time", "store-1000")):
        stored, raw = ours(name, "per_s"), of("raw", name, "per_s")
        yield Target(f"storing 1,000 {text}, rate of raw", stored, raw, 0.6, at_least=True)
    yield ahead("storing one by one, of the fastest peer", "asyncresult", "store-each")
    yield ahead("storing 1,000 with asyncresult.sync's store_many, of the fastest peer", "sync", "store-many-1000")
    yield ahead("storing one by one with asyncresult.sync, of the fastest peer", "sync", "store-each")
    yield Target("first get of a fresh process, ms", ours("first-get", "ms"), None, 60)
    yield Target("1,000 tasks with 20 states: CPU of a state, us", ours("updates-many", "cpu_state_us"), None, 5)
    for text, metric, limit in (
        ("memory of each, kB", "kb_each", 0.45),
        ("connections", "connections", 2),
        ("idle CPU, %", "idle_cpu_percent", 1),
        ("back after a cut, s", "reconnect_s", 15),
    ):
        yield Target(f"a million waiting in a join: {text}", ours("million", metric), None, limit)
    yield Target(
        "CPU of a result in a join of 1,000,000, of one of 10,000",
        ours("million", "cpu_each_us"),
        ours("join-10000", "cpu_each_us"),
        1.25,
    )
    yield Target(
        "storing one by one, faster than Celery, times",
        ours("store-each", "per_s"),
        of("celery", "store-each", "per_s"),
        2.5,
        at_least=True,
    )
    yield Target("import, of redis.asyncio", ours("import", "ms"), of("raw", "import", "ms"), 0.35)
    yield Target(
        "import with connect and AsyncResult, of redis.asyncio",
        ours("import", "with_names_ms"),
        of("raw", "import", "ms"),
        0.35,
    )
    yield Target(
        "CPU of a result in a join of 100,000, of one of 1,000",
        ours("join-100000", "cpu_each_us"),
        ours("join-1000", "cpu_each_us"),
        1.2,
    )


TARGETS = list(_targets())


#: The columns of the summary.
SUMMARY = [
    ("one result, p50, ms", "single"),
    ("10,000 arrive, s", "join-10000"),
    ("50,000 arrive, s", "join-50000"),
    ("10,000 stored: fetch, s", "fetch-10000"),
    ("stored a second, 1,000 with one call", "store-many-1000"),
    ("stored a second, 1,000 at a time", "store-1000"),
    ("stored a second, one by one", "store-each"),
    ("waiting handle, kB", "waiting-10000"),
    ("first get, ms", "first-get"),
]


def summary(results: dict[str, Any]) -> str:
    """One table for all contenders, and the targets."""
    samples = Samples(results)
    metrics = {scenario.name: scenario.metric for scenario in SCENARIOS}
    lines = [
        _machine(results),
        "",
        f"| | {' | '.join(title for title, _ in SUMMARY)} |",
        f"| --- |{' --- |' * len(SUMMARY)}",
    ]
    for contender in CONTENDERS:
        values = [samples.median(scenario, contender.name, metrics[scenario]) for _, scenario in SUMMARY]
        if any(value is not None for value in values):
            cells = ["" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in values]
            lines.append(f"| {contender.label} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_targets_table(samples)])


def headline(results: dict[str, Any]) -> str:
    """The sentence of the README: ratios within this run, of the version that it measured."""
    samples = Samples(results)

    def times(over: str, under: str, scenario: str, metric: str) -> str:
        ratio = samples.ratio((scenario, over, metric), (scenario, under, metric))
        return "(not measured)" if ratio is None else f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.3g}"

    machine = results["machine"]
    text = (
        f"**It is fast**: measured on {machine['date'][:10]} with version {machine['versions']['asyncresult']}, "
        f"a result arrived in {times('asyncresult', 'celery', 'single', 'p50_ms')} of the time that Celery's `get()` "
        f"takes, and {times('asyncresult', 'raw', 'single', 'p50_ms')} of what the bare protocol takes; a join of "
        f"50,000 was {times('celery', 'asyncresult', 'join-50000', 'wall_s')} times as fast as Celery's "
        f"({times('celery-nosleep', 'asyncresult', 'join-50000', 'wall_s')} times without the pauses in Celery's)."
    )
    return textwrap.fill(text, 118, break_on_hyphens=False) + "\n"


#: How each waits, for the comparison in the documentation.
WAITS_BY = {
    "asyncresult": "push, subscribed before it reads",
    "celery": "push, a thread blocked",
    "taskiq": "polling, 0.2 s",
    "arq": "polling, 0.5 s",
    "aio-celery": "polling",
    "saq": "push",
    "streaq": "a stream",
    "dramatiq": "a thread blocked",
    "rq": "a thread blocked",
}


def peers(results: dict[str, Any]) -> str:
    """The table of the comparison: how each waits, and what that costs."""
    samples = Samples(results)
    machine = results["machine"]
    labels = {contender.name: contender.label for contender in CONTENDERS}
    lines = [
        f"Measured on {machine['date'][:10]} with asyncresult {machine['versions']['asyncresult']}.",
        "",
        "| | waits by | one result, p50 | join of 10,000 |",
        "| --- | --- | --- | --- |",
    ]
    for name, way in WAITS_BY.items():
        cells = [
            "not measured" if value is None else f"{value:.2g} {unit}" if value < 100 else f"{value:.0f} {unit}"
            for value, unit in (
                (samples.median("single", name, "p50_ms"), "ms"),
                (samples.median("join-10000", name, "wall_s"), "s"),
            )
        ]
        lines.append(f"| {labels[name]} | {way} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _machine(results: dict[str, Any]) -> str:
    machine = results["machine"]
    return (
        f"Measured on {machine['date']}: Python {machine['python']}, {machine['server']}, {machine['cpu']}, "
        f"{machine['system']}; {', '.join(f'{name} {version}' for name, version in machine['versions'].items())}."
    )


def markdown(results: dict[str, Any]) -> str:
    """Everything that was measured."""
    samples = Samples(results)
    lines = [_machine(results), "", *_targets_table(samples)]
    for scenario in SCENARIOS:
        lines += _table(samples, scenario)
    failures = [f"* {where[0]}, {where[1]}: {why}" for where, why in samples.failures.items()]
    if failures:
        lines += ["## Not measured", "", *failures, ""]
    return "\n".join(lines)


def _targets_table(samples: Samples) -> Iterator[str]:
    rows = [(target, value) for target in TARGETS if (value := target.value(samples)) is not None]
    if rows:
        yield from ("## Targets", "", "| target | limit | measured | met |", "| --- | --- | --- | --- |")
        for target, value in rows:
            sign = "≥" if target.at_least else "≤"
            yield f"| {target.text} | {sign} {target.limit:g} | {value:.3g} | {'yes' if target.met(value) else 'no'} |"
        yield ""


def _table(samples: Samples, scenario: Scenario) -> list[str]:
    rows = []
    for contender in CONTENDERS:
        value = samples.median(scenario.name, contender.name, scenario.metric)
        if value is not None:
            place = scenario.name, contender.name, scenario.metric
            row = [contender.label, f"{value:.4g}"]
            for other in ("raw", "asyncresult"):
                ratio = samples.ratio(place, (scenario.name, other, scenario.metric))
                row.append("" if ratio is None else f"{ratio:.3g}")
            metrics = samples.metrics(scenario.name, contender.name)
            rest = [metric for metric in metrics if metric != scenario.metric]
            row.append(", ".join(f"{metric} {samples.median(*place[:2], metric):.4g}" for metric in rest))
            rows.append("| " + " | ".join(row) + " |")
    if not rows:
        return []
    head = f"| | {scenario.metric} | of raw | of asyncresult | and |"
    return [f"## {scenario.name}: {scenario.title}", "", head, "| --- | --- | --- | --- | --- |", *rows, ""]
