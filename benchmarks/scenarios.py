"""What is measured. A scenario gives the numbers of one contender in one repetition.

Times are those of CLOCK_MONOTONIC, which is the same in all processes of the machine.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from .contenders import ROOT, Contender
from .lab import ENVIRONMENT, Failed, Lab
from .million import million

__all__ = ["SCENARIOS", "Scenario"]

Numbers = dict[str, float]
OURS = ("asyncresult", "uvloop")
BESIDE_RAW = ("raw", *OURS, "sync", "pubsub")
# Where the garbage collector has a large part: with what it finds at start taken out of its sight.
BULK = (*OURS, "frozen")
CELERY = ("celery", "celery-nosleep")
PEERS = ("saq", "taskiq", "arq", "streaq", "aio-celery", "dramatiq", "rq")
EVERYBODY = (*BESIDE_RAW, *CELERY, *PEERS)
IMPORTS = 7


def single(lab: Lab, contender: Contender, *, n: int, polled: int) -> Numbers:
    """Stored -> awaiter resumed, one result at a time, at moments that the client cannot foresee."""
    pause = 0.006
    if contender.polls:
        n, pause = polled, contender.polls * 2
    run = lab.new_run()
    with lab.producer(contender, run, n, pause=pause) as producer, lab.client(contender, run, n, "single") as client:
        producer.expect("ready")
        client.expect("ready")
        client.go()
        time.sleep(0.1)
        producer.go()
        done = client.expect("done")
        stored = producer.expect("done")["times"]
    latencies = sorted((there - sent) / 1e6 for sent, there in zip(stored, done["times"], strict=True))
    return {
        "p50_ms": statistics.median(latencies),
        "p99_ms": latencies[min(n - 1, int(n * 0.99))],
        "cpu_each_us": done["cpu_used"] / n * 1e6,
    }


def arriving(lab: Lab, contender: Contender, *, n: int, method: str = "join", padding: int = 0, **more: Any) -> Numbers:
    """All wait, then all results are stored at full speed."""
    run = lab.new_run()
    with (
        lab.producer(contender, run, n, padding=padding, **more) as producer,
        lab.client(contender, run, n, method) as client,
    ):
        producer.expect("ready")
        client.expect("ready")
        client.go()
        lab.wait_until_waiting(contender, n)
        cpu = client.cpu()
        producer.go()
        sent = producer.expect("done")
        done = client.expect("done")
    wall = (done["ended"] - sent["times"][0]) / 1e9
    states = {"cpu_state_us": (done["cpu"] - cpu) / done["seen"] * 1e6} if "steps" in more else {}
    return {
        "wall_s": wall,
        "cpu_each_us": (done["cpu"] - cpu) / n * 1e6,
        "producing_s": (sent["settled"] - sent["times"][0]) / 1e9,
        **states,
    }


def soon(lab: Lab, contender: Contender, *, n: int) -> Numbers:
    """A join whose results come a tenth of a second after it has begun: Celery's sleeps half a second first."""
    run = lab.new_run()
    with lab.producer(contender, run, n) as producer, lab.client(contender, run, n, "join") as client:
        producer.expect("ready")
        client.expect("ready")
        client.go()
        time.sleep(0.1)
        producer.go()
        sent = producer.expect("done")
        done = client.expect("done")
    return {"wall_s": (done["ended"] - sent["times"][0]) / 1e9}


def stored(lab: Lab, contender: Contender, *, n: int, method: str = "fetch") -> Numbers:
    """All are stored; then they are asked for."""
    run = lab.new_run()
    with lab.stored(contender, run, n), lab.client(contender, run, n, method) as client:
        client.expect("ready")
        client.go()
        done = client.expect("done")
    return {"wall_s": (done["ended"] - done["started"]) / 1e9, "cpu_each_us": done["cpu_used"] / n * 1e6}


def storing(lab: Lab, contender: Contender, *, n: int, method: str = "store") -> Numbers:
    """The worker's side."""
    run = lab.new_run()
    with lab.client(contender, run, n, method) as client:
        client.expect("ready")
        client.go()
        done = client.expect("done")
    seconds = (done["ended"] - done["started"]) / 1e9
    return {"per_s": n / seconds, "cpu_each_us": done["cpu_used"] / n * 1e6}


def waiting(lab: Lab, contender: Contender, *, n: int, idle: float, method: str = "join") -> Numbers:
    """What it costs to wait: memory, connections, CPU while nothing happens."""
    run = lab.new_run()
    lab.announce(contender, run, n)
    with lab.client(contender, run, n, method) as client:
        client.expect("ready")
        before = client.resident_bytes()
        client.go()
        lab.wait_until_waiting(contender, n)
        grown = client.resident_bytes() - before
        connections = len(lab.server.clients())
        cpu = client.cpu()
        time.sleep(idle)
        client.must_still_wait()
        return {
            "kb_each": grown / n / 1000,
            "connections": connections,
            "idle_cpu_percent": (client.cpu() - cpu) / idle * 100,
        }


def reconnecting(lab: Lab, contender: Contender, *, n: int) -> Numbers:
    """The subscription is cut, all results are stored at that moment; until the last waiter has its value."""
    run = lab.new_run()
    with lab.producer(contender, run, n) as producer, lab.client(contender, run, n, "join") as client:
        producer.expect("ready")
        client.expect("ready")
        client.go()
        lab.wait_until_waiting(contender, n)
        lab.server.kill_clients("pubsub")
        cut = time.monotonic_ns()
        producer.go()
        producer.expect("done")
        done = client.expect("done")
    if not done["reconnects"]:
        raise Failed("was not cut off")
    return {"wall_s": (done["ended"] - cut) / 1e9}


def blocked(lab: Lab, contender: Contender, *, n: int, padding: int) -> Numbers:
    """The loop stands still while more comes in than Redis keeps for a subscriber (32 MB): it is cut off."""
    run = lab.new_run()
    with (
        lab.producer(contender, run, n, padding=padding) as producer,
        lab.client(contender, run, n, "blocked", padding=padding) as client,
    ):
        producer.expect("ready")
        client.expect("ready")
        client.go()
        lab.wait_until_waiting(contender, n)
        producer.go()
        sent = producer.expect("done")
        done = client.expect("done")
    if not done["reconnects"]:
        raise Failed("was not cut off")
    return {"wall_s": (done["ended"] - sent["times"][0]) / 1e9, "reconnects": done["reconnects"]}


def importing(lab: Lab, contender: Contender) -> Numbers:
    """Milliseconds of ``import``, in a fresh interpreter that may keep bytecode, as for any installed package.

    A package that imports its parts on their first use is measured twice: the bare ``import``, and with the names that
    every program needs.
    """
    names = {
        "raw": "redis.asyncio",  # the measure: what an asynchronous Redis client costs anyway
        "asyncresult": "asyncresult",
        "celery": "celery.result",
        "saq": "saq",
        "taskiq": "taskiq_redis",
        "arq": "arq",
        "streaq": "streaq",
        "aio-celery": "aio_celery",
        "dramatiq": "dramatiq.results",
        "rq": "rq",
    }
    # redis-py imports OpenTelemetry where that is installed, as it is in the project's environment alone.
    program = f"""
import sys, time
sys.modules["opentelemetry"] = None
began = time.perf_counter()
import {names[contender.name]}
print(time.perf_counter() - began)
{"from asyncresult import AsyncResult, connect" if contender.name == "asyncresult" else ""}
print(time.perf_counter() - began)
"""

    def once() -> list[float]:
        command = [contender.python, "-c", program]
        output = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, check=True).stdout
        return [float(line) * 1000 for line in output.splitlines()]

    once()
    bare, with_names = zip(*[once() for _ in range(IMPORTS)], strict=True)
    return {"ms": statistics.median(bare), "with_names_ms": statistics.median(with_names)}


def first_get(lab: Lab, contender: Contender) -> Numbers:
    """From the first import of a fresh process to the value of a stored result."""
    run = lab.new_run()
    with lab.stored(contender, run, 1), lab.client(contender, run, 1, "join_stored", warm=False) as client:
        client.go()
        client.expect("ready")
        done = client.expect("done")
    return {"ms": (done["ended"] - done["began"]) / 1e6, "cpu_ms": (done["cpu"] - done["cpu_began"]) * 1000}


def streaming(lab: Lab, contender: Contender) -> Numbers:
    """What the web part costs: an HTTP server, streams that it serves, and one client of all of them."""
    from .sse import measure  # imports the web part, which the other scenarios do without

    lab.new_run()
    return measure(lab.server.url(), 500)


@dataclass(frozen=True)
class Scenario:
    """One thing that is measured.

    Attributes:
        name: For ``--only`` and the results.
        title: For people.
        measure: Called with the lab and the contender.
        contenders: The names of those who take part.
        n: How many results; compared with what a contender can take.
        quick: Whether ``--quick`` includes it.
        metric: The one that the ratios are of.
        once: Whether it takes too long to be repeated in one run.
    """

    name: str
    title: str
    measure: Callable[..., Numbers]
    contenders: tuple[str, ...]
    n: int = 1
    quick: bool = True
    metric: str = "wall_s"
    once: bool = False


def _scenarios() -> list[Scenario]:
    found = [
        Scenario(
            "single",
            "one result: stored -> awaiter resumed, p50",
            partial(single, n=400, polled=12),
            (*EVERYBODY, "celery-thread", "celery-thread-nosleep"),
            metric="p50_ms",
        )
    ]
    found.append(
        Scenario("soon-10", "join of 10, stored 0.1 s after it has begun", partial(soon, n=10), ("raw", *OURS, *CELERY))
    )
    for n in (1_000, 10_000, 50_000, 100_000):
        found.append(
            Scenario(
                f"join-{n}",
                f"join of {n:,}, all stored at full speed",
                partial(arriving, n=n),
                (*EVERYBODY, "frozen") if n <= 50_000 else ("raw", *BULK),
                n,
                quick=n <= 10_000,
            )
        )
    found += [
        Scenario(
            f"gather-{n}",
            f"asyncio.gather over {n:,} handles, all stored at full speed",
            partial(arriving, n=n, method="gather"),
            ("raw", *BULK),
            n,
            quick=n <= 10_000,
        )
        for n in (10_000, 50_000)
    ]
    found += [
        Scenario("fetch-10000", "10,000 stored: fetch all", partial(stored, n=10_000), (*EVERYBODY, "frozen"), 10_000),
        Scenario(
            "join-stored-10000",
            "10,000 stored: join",
            partial(stored, n=10_000, method="join_stored"),
            ("raw", *BULK, *CELERY),
            10_000,
        ),
        Scenario(
            "store-1000",
            "storing 1,000 at a time",
            partial(storing, n=1_000),
            (*BESIDE_RAW, "celery", *PEERS),
            1_000,
            metric="per_s",
        ),
        Scenario(
            "store-many-1000",
            "storing 1,000 with one call, where there is one",
            partial(storing, n=1_000, method="store_many"),
            (*BESIDE_RAW, "celery", *PEERS),
            1_000,
            metric="per_s",
        ),
        Scenario(
            "store-10000",
            "storing 10,000 at a time",
            partial(storing, n=10_000),
            (*BESIDE_RAW, "celery"),
            10_000,
            quick=False,
            metric="per_s",
        ),
        Scenario(
            "store-each",
            "storing one after the other",
            partial(storing, n=1_000, method="store_each"),
            (*BESIDE_RAW, "celery", *PEERS),
            1_000,
            metric="per_s",
        ),
        Scenario(
            "store-threads",
            "storing one after the other in each of 8 threads",
            partial(storing, n=2_000, method="store_threads"),
            ("sync", "celery", "dramatiq", "rq"),
            2_000,
            metric="per_s",
        ),
        Scenario(
            "waiting-10000",
            "10,000 waiting: memory of each",
            partial(waiting, n=10_000, idle=5),
            tuple(name for name in EVERYBODY if name not in ("dramatiq", "rq")),  # they wait for one at a time
            10_000,
            quick=False,
            metric="kb_each",
        ),
        Scenario(
            "waiting-tasks-10000",
            "10,000 waiting in a task each: memory of each",
            partial(waiting, n=10_000, idle=5, method="gather"),
            OURS,
            10_000,
            quick=False,
            metric="kb_each",
        ),
        # Long enough for a safety sweep to fall into it.
        Scenario(
            "waiting-100000",
            "100,000 waiting: idle CPU",
            partial(waiting, n=100_000, idle=60),
            OURS,
            100_000,
            quick=False,
            metric="idle_cpu_percent",
            once=True,
        ),
        # Long enough for two safety sweeps to fall into it.
        Scenario(
            "million",
            "1,000,000 waiting in one process, cut off, then all stored at full speed",
            partial(million, n=1_000_000, idle=60),
            ("asyncresult",),
            1_000_000,
            quick=False,
            metric="cpu_each_us",
            once=True,
        ),
        Scenario(
            "then-10000",
            "two callbacks on each of 10,000, all stored at full speed",
            partial(arriving, n=10_000, method="then"),
            OURS,
            10_000,
        ),
        Scenario(
            "updates-one",
            "20 states of one task, 1,000 readers",
            partial(arriving, n=1, method="updates", steps=20),
            OURS,
        ),
        Scenario(
            "updates-many",
            "20 states of each of 1,000 tasks, a reader each",
            partial(arriving, n=1_000, method="updates", steps=20),
            OURS,
            1_000,
        ),
        Scenario(
            "sse-500",
            "500 streams of server-sent events in one process, all tasks ended at once",
            streaming,
            ("asyncresult",),
            500,
        ),
        Scenario(
            "reconnect-20000",
            "the subscription is cut with 20,000 waiting",
            partial(reconnecting, n=20_000),
            OURS,
            20_000,
        ),
        Scenario(
            "blocked",
            "the loop blocked until Redis cuts the subscriber off",
            partial(blocked, n=3_000, padding=20_000),
            OURS,
            3_000,
            quick=False,
        ),
        Scenario(
            "import",
            "import",
            importing,
            ("raw", "asyncresult", "celery", *PEERS),
            metric="ms",
        ),
        Scenario("first-get", "first get of a fresh process", first_get, EVERYBODY, metric="ms"),
    ]
    return found


SCENARIOS = _scenarios()
