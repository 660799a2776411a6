"""A Celery app's broker: whether it can be reached, its queues, and the rights that ``rpc://`` takes. Blocks."""

from __future__ import annotations

import json
import uuid
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import kombu.entity
from amqp.exceptions import AccessRefused, PreconditionFailed

from ...integrations.celery.replies import QUEUE_PREFIX
from ..source import one_line
from .findings import Finding

__all__ = ["WORKER_SECONDS", "broker_findings", "open_broker", "queue_findings", "reply_findings", "waiting_in"]

_Queue: Any = kombu.entity.Queue  # kombu has types in part

WORKER_SECONDS = 1.0
#: Messages of a queue in Redis that are looked at.
MOST_LOOKED_AT = 10_000


@contextmanager
def open_broker(app: Any, timeout: float) -> Generator[Any]:
    """A connection to the broker.

    Raises: what kombu raises, within some multiples of ``timeout`` seconds.
    """
    with app.connection_for_write(connect_timeout=timeout) as connection:
        connection.transport_options = {
            "socket_connect_timeout": timeout,
            "socket_timeout": max(timeout, 5.0),
            **(connection.transport_options or {}),
        }
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=timeout)
        yield connection


def unreachable(app: Any, error: Exception) -> Finding:
    """The finding for a broker that does not let us in. Its address has no password."""
    address = app.connection_for_write().as_uri()
    return Finding(
        "broker",
        "error",
        f"{address} cannot be reached: {one_line(error)}",
        "start it, or mend broker_url: without it no task is sent, and no worker answers",
    )


def broker_findings(connection: Any) -> list[Finding]:
    """That it answers."""
    return [Finding("broker", "ok", f"{connection.as_uri()} answers")]


def queue_findings(app: Any, connection: Any) -> list[Finding]:
    """Queues that nobody consumes, where the broker reports that."""
    findings: list[Finding] = []
    for name in app.amqp.queues:
        messages, consumers = _depth(connection, name)
        if messages and consumers == 0 and connection.transport.driver_type == "amqp":
            findings.append(
                Finding(
                    "queues",
                    "error",
                    f"{messages} tasks wait in the queue {name!r}, which nobody consumes",
                    f"start a worker: celery -A PROJ worker -Q {name}",
                )
            )
    return findings


def _depth(connection: Any, name: str) -> tuple[int, int]:
    """How many messages and consumers a queue has; none where it does not exist."""
    channel = connection.channel()
    try:
        _, messages, consumers = channel.queue_declare(queue=name, passive=True)
        return int(messages), int(consumers)
    except Exception:  # kombu's and the transport's: there is no such queue
        return 0, 0
    finally:
        try:
            channel.close()
        except Exception:  # closed by the broker with its refusal
            pass


# -- one task -----------------------------------------------------------------------------------------------


def waiting_in(app: Any, connection: Any, id: str) -> Finding | None:
    """The queue in which a task waits. Only Redis shows what is in a queue."""
    if connection.transport.driver_type != "redis":
        for name in app.amqp.queues:
            messages, consumers = _depth(connection, name)
            if messages and not consumers:
                return Finding(
                    "reason",
                    "warning",
                    f"{messages} tasks wait in the queue {name!r}, which nobody consumes; this one may be among them",
                    f"start a worker: celery -A PROJ worker -Q {name}",
                )
        return None
    channel = connection.channel()  # the default one waits for replies
    with channel.conn_or_acquire() as client:
        return _in_redis(channel, client, app.amqp.queues, id)


def _in_redis(channel: Any, client: Any, queues: Iterable[str], id: str) -> Finding | None:
    for name in queues:
        for step in channel.priority_steps:
            place, length = _place_in(client, channel._q_for_pri(name, step), id)
            if place is not None:
                return Finding(
                    "reason",
                    "warning",
                    f"the task waits in the queue {name!r}, as number {place} of {length}",
                    f"see who consumes it (celery -A PROJ inspect active_queues), or start a worker with -Q {name}",
                )
    for _, value in client.hscan_iter(channel.unacked_key, count=1000):
        if id.encode() in _bytes(value) and _id_of(json.loads(value)[0]) == id:
            return Finding(
                "reason",
                "note",
                "a worker has taken the task and not acknowledged it: it runs, waits for its time, or its worker died",
                "Celery gives it to another worker after visibility_timeout",
            )
    return None


def _place_in(client: Any, key: str, id: str) -> tuple[int | None, int]:
    length = int(client.llen(key))
    # New messages come at the left, workers take them at the right.
    messages = client.lrange(key, -MOST_LOOKED_AT, -1)
    for place, message in enumerate(reversed(messages), 1):
        if id.encode() in _bytes(message) and _id_of(json.loads(message)) == id:
            return place, length
    return None, length


def _id_of(message: Any) -> Any:
    return message.get("headers", {}).get("id") if isinstance(message, dict) else None


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


# -- rpc:// -------------------------------------------------------------------------------------------------


def reply_findings(app: Any, connection: Any) -> list[Finding]:
    """Whether this login may have a reply queue of its own, as each process that waits has one."""
    findings = [
        Finding(
            "reach",
            "note",
            "rpc:// results come to the process that sent the task: no other can read them, nor can this command",
            "if others are to read them, store them: result_backend = 'redis://…'",
        )
    ]
    channel = connection.channel()
    queue = _Queue(f"{QUEUE_PREFIX}doctor-{uuid.uuid4()}", durable=True, auto_delete=False, expires=60.0)(channel)
    try:
        queue.queue_declare()
        queue.get(no_ack=True)
        queue.delete()
    except AccessRefused as error:
        findings.append(
            Finding(
                "reply queue",
                "error",
                f"the broker refuses a reply queue: {one_line(error)}",
                f"rabbitmqctl set_permissions -p {connection.virtual_host} {connection.userid} CONFIGURE WRITE READ,"
                r" where CONFIGURE and READ match '^asyncresult\.reply\.'",
            )
        )
    except PreconditionFailed as error:
        findings.append(
            Finding("reply queue", "error", f"the broker refuses its arguments: {one_line(error)}", "see its policies")
        )
    else:
        findings.append(Finding("reply queue", "ok", "may be made, read and deleted"))
    if not app.conf.result_persistent:
        findings.append(
            Finding(
                "reply queue",
                "note",
                "replies are transient: those that nobody has taken yet are lost when the broker is restarted",
                "result_persistent = True in the workers' settings",
            )
        )
    return findings
