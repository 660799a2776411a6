"""How a task describes itself: what is stored about it besides state and result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from ._handles.base import Node

__all__ = ["Request", "TrackOptions"]


class TrackOptions(TypedDict, total=False):
    """What :meth:`asyncresult.Backend.track` takes, and documents."""

    name: str | None
    args: Sequence[Any] | None
    kwargs: Mapping[str, Any] | None
    worker: str | None
    queue: str | None
    retries: int
    parent_id: str | None
    group_id: str | None
    ignore_result: bool
    expires: float | None
    failure_expires: float | None
    heartbeat: float | None
    history: int | None
    progress_interval: float


@dataclass(slots=True, kw_only=True)
class Request:
    """How a task describes itself, with the attributes of Celery's request. See :meth:`Backend.track`."""

    task: str | None
    args: Sequence[Any] | None
    kwargs: Mapping[str, Any] | None
    hostname: str
    delivery_info: Mapping[str, Any]
    retries: int
    parent_id: str | None
    group: str | None
    children: list[Node[Any]] = field(default_factory=list)
    heartbeat: Mapping[str, float] | None = None
    own_fields: Mapping[str, Any] | None = None
    extended: bool = True
