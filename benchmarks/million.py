"""A million waits in one process, from the subscription to the last value: ``python3 dev bench --only million``.

It takes some minutes and 6 GB: 1 GB in the server, the rest in the client, which has every value twice, and in the
producer, which has all its commands packed beforehand. So it is measured once in a run, for asyncresult alone.
"""

from __future__ import annotations

import time

from tests.tools.servers import Control

from .contenders import Contender
from .lab import Failed, Lab

__all__ = ["million"]

#: Seconds for each step: it fails rather than hang.
PATIENCE = 240.0


def million(lab: Lab, contender: Contender, *, n: int, idle: float) -> dict[str, float]:
    """All wait; nothing happens; the subscription is cut; all are stored at full speed."""
    run = lab.new_run()
    with lab.producer(contender, run, n) as producer, lab.client(contender, run, n, "join") as client:
        producer.expect("ready", within=PATIENCE)
        client.expect("ready", within=PATIENCE)
        resident = client.resident_bytes()
        began = time.monotonic()
        client.go()
        lab.wait_until_waiting(contender, n, within=PATIENCE)
        waiting = time.monotonic() - began
        grown = client.resident_bytes() - resident
        wait_until_read(lab, n)
        connections = len(lab.server.clients()) - 1  # the producer has one, too
        cpu = client.cpu()
        time.sleep(idle)
        client.must_still_wait()
        idle_cpu = client.cpu() - cpu
        back = cut_off(lab, n)
        time.sleep(1.0)
        cpu = client.cpu()
        producer.go()
        sent = producer.expect("done", within=PATIENCE)
        done = client.expect("done", within=PATIENCE)
    with Control(lab.server.unix_path, timeout=PATIENCE) as administrator:
        administrator("FLUSHALL")  # takes longer than the runner waits for its own
    if not done["reconnects"]:
        raise Failed("was not cut off")
    return {
        "cpu_each_us": (done["cpu"] - cpu) / n * 1e6,
        "kb_each": grown / n / 1000,
        "connections": connections,
        "idle_cpu_percent": idle_cpu / idle * 100,
        "reconnect_s": back,
        "waiting_s": waiting,
        "wall_s": (done["ended"] - sent["times"][0]) / 1e9,
        "producing_s": (sent["settled"] - sent["times"][0]) / 1e9,
        "reconnects": done["reconnects"],
    }


def misses(lab: Lab) -> int:
    """How many reads of the server's keys have found nothing."""
    return int(lab.server.info("stats")["keyspace_misses"])


def wait_until_read(lab: Lab, n: int, *, beyond: int = 0) -> None:
    """Return when each key was read at least once since there were so many misses.

    Raises:
        Failed: That does not happen.
    """
    deadline = time.monotonic() + PATIENCE
    while misses(lab) < beyond + n:
        if time.monotonic() > deadline:
            raise Failed("did not read all that it waits for")
        time.sleep(0.05)


def cut_off(lab: Lab, n: int) -> float:
    """Cut the subscription; the seconds until all are subscribed anew, and read behind that."""
    before = misses(lab)
    began = time.monotonic()
    with Control(lab.server.unix_path, timeout=PATIENCE) as administrator:
        administrator("CLIENT", "KILL", "TYPE", "pubsub")  # it frees as many channels before it answers
    deadline = began + PATIENCE
    while int(lab.server.info("stats")["pubsub_channels"]) < n or not lab.server.clients():
        if time.monotonic() > deadline:
            raise Failed("did not come back")
        time.sleep(0.05)
    wait_until_read(lab, n, beyond=before)
    return time.monotonic() - began
