"""The settings of a Celery app, and those of its workers. Blocks: it runs in a thread."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from kombu.utils.url import maybe_sanitize_url

from .broker import WORKER_SECONDS
from .findings import Finding

__all__ = ["app_findings", "worker_findings"]

#: Settings that both sides have to have the same, and what happens if they have not.
_SHARED = {
    "result_serializer": "the workers' records cannot be read if it is not among result_accept_content here",
    "result_compression": "the workers' records are compressed otherwise",
    "result_expires": "results are kept for another time than is expected here",
}


def app_findings(app: Any, url: str | None = None) -> list[Finding]:
    """What the app's own settings do to results.

    Args:
        url: Where results are read, if not where the app says.
    """
    conf = app.conf
    findings = _compare_places("the app", _own_place(app), str(maybe_sanitize_url(url))) if url else []
    if conf.task_ignore_result:
        findings.append(
            Finding(
                "settings",
                "error",
                "task_ignore_result is set: workers store no results",
                "unset it, or set it for single tasks",
            )
        )
    if not conf.task_track_started:
        findings.append(
            Finding(
                "settings",
                "note",
                "task_track_started is off: a task that runs looks like one that waits",
                "set it to see STARTED",
            )
        )
    accepted = conf.result_accept_content or conf.accept_content
    if conf.result_serializer == "pickle":
        findings.append(
            Finding(
                "serializer",
                "error",
                "result_serializer is pickle, which asyncresult never reads",
                "set result_serializer to json",
            )
        )
    elif not any(word in (conf.result_serializer, f"application/{conf.result_serializer}") for word in accepted):
        findings.append(
            Finding(
                "serializer",
                "error",
                f"result_serializer is {conf.result_serializer}, and result_accept_content takes {', '.join(accepted)}"
                " only: what is stored is refused when it is read",
                f"add {conf.result_serializer!r} to result_accept_content",
            )
        )
    if not conf.result_expires:
        findings.append(
            Finding("expiry", "warning", "result_expires is 0: results are kept forever", "set result_expires")
        )
    if not any(finding.severity in ("warning", "error") for finding in findings):
        findings.append(Finding("settings", "ok", f"of {app.main or 'the app'}: nothing that loses results"))
    return findings


def worker_findings(app: Any, connection: Any) -> list[Finding]:
    """The workers that answer, and where their settings differ from the app's."""
    replies: Mapping[str, Any] = (
        app.control.inspect(timeout=WORKER_SECONDS, connection=connection).conf(with_defaults=True) or {}
    )
    if not replies:
        return [Finding("workers", "warning", "no worker answers", "start one: celery -A PROJ worker")]
    findings = [finding for worker, theirs in sorted(replies.items()) for finding in _compare(app, worker, theirs)]
    return findings or [Finding("workers", "ok", f"{len(replies)} answer, with the same settings for results")]


def _compare(app: Any, worker: str, theirs: Mapping[str, Any]) -> list[Finding]:
    findings = _compare_places(worker, str(theirs.get("result_backend")), _own_place(app))
    if theirs.get("task_ignore_result") and not app.conf.task_ignore_result:
        findings.append(
            Finding("workers", "error", f"{worker} has task_ignore_result: it stores no results", "unset it there")
        )
    for name, why in _SHARED.items():
        ours, their = _as_told(name, app.conf.get(name)), _as_told(name, theirs.get(name))
        if name in theirs and ours != their:
            findings.append(
                Finding(
                    "workers",
                    "warning",
                    f"{name} is {their} at {worker}, and {ours} here: {why}",
                    "give both the same settings, and start the worker again",
                )
            )
    return findings


def _as_told(name: str, value: Any) -> str:
    """A setting as workers report it, which is text; a time as that of a timedelta."""
    if name == "result_expires" and isinstance(value, int | float):
        value = timedelta(seconds=value)
    return str(value)


def _own_place(app: Any) -> str:
    """Where the app's results are, as Celery shows it: without passwords."""
    return str(maybe_sanitize_url(str(app.backend_cls or app.conf.result_backend)))


def _compare_places(worker: str, stored: str, read: str) -> list[Finding]:
    here, there = _place(read), _place(stored)
    if here == there:
        return []
    same_kind = (here[0], *here[2:]) == (there[0], *there[2:])
    return [
        Finding(
            "place",
            "warning" if same_kind else "error",
            f"{worker} stores in {stored}, and results are read from {read}"
            + (": is that the same server by another name?" if same_kind else ""),
            "give both the same result_backend, and start the worker again",
        )
    ]


def _place(url: str) -> tuple[str, str, int | None, str]:
    """Scheme, host, port and path, in which the number of a Redis database is."""
    parts = urlsplit(url.removeprefix("asyncresult+"))
    try:
        port = parts.port
    except ValueError:
        port = None
    redis = parts.scheme in ("redis", "rediss")
    host = "localhost" if parts.hostname in ("127.0.0.1", "::1", None) else parts.hostname
    return parts.scheme, host, port or (6379 if redis else None), parts.path.strip("/") or ("0" if redis else "")
