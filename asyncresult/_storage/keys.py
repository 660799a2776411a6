"""Every key that is read or written, and its rule.

Keys and channels of records and groups are Celery's, byte for byte. What else is kept about a task lies beside its
record, on the same node of a cluster.

Source: celery/backends/base.py (5.7), KeyValueStoreBackend.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["HISTORY", "REVOKE", "SENT", "Keys", "task_keys"]

#: Beside a record: the states that were kept (``track(history=…)``).
HISTORY = "history"
#: Beside a record: the latest request to revoke the task.
REVOKE = "revoke"
#: Beside a record: that the task was sent, and when.
SENT = "sent"
#: What integrations and users keep beside a record is called like this.
_OWN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}\Z")
#: How the keys beside a record end.
_BESIDE = re.compile(rb"\.(history|revoke|sent|own\.[A-Za-z][A-Za-z0-9_]*|reply-[^.]*)\Z")


class Keys:
    """The keys of one store.

    Args:
        prefix: In front of every key and channel; with an underscore between unless it ends in one of ``: _ - .``.
    """

    def __init__(self, prefix: str) -> None:
        self.key_prefix: str = f"{prefix}_" if prefix and prefix[-1] not in ":_-." else prefix
        self._task_prefix = f"{self.key_prefix}celery-task-meta-".encode()
        self._group_prefix = f"{self.key_prefix}celery-taskset-meta-".encode()

    def task_key(self, task_id: str) -> bytes:
        """The key, and channel, of a task's record.

        Raises:
            ValueError: The id cannot be part of a key.
        """
        try:
            return self._task_prefix + task_id.encode()
        except (UnicodeEncodeError, AttributeError):
            raise ValueError(f"not a task id: {task_id!r}") from None

    def task_of(self, key: bytes) -> str:
        """The task whose record lies under ``key``."""
        return key[len(self._task_prefix) :].decode()

    def is_task_key(self, key: bytes) -> bool:
        """Whether a task's record lies under ``key``, and not something beside it or of another kind."""
        if not key.startswith(self._task_prefix):
            return False
        # A key beside a task whose id has braces begins with the task's own.
        return b"{" not in key or _BESIDE.search(key) is None

    def is_group_key(self, key: bytes) -> bool:
        """Whether a saved group lies under ``key``."""
        return key.startswith(self._group_prefix)

    def group_of(self, key: bytes) -> str:
        """The group that is saved under ``key``."""
        return key[len(self._group_prefix) :].decode()

    def key_beside(self, task_id: str, what: str) -> bytes:
        """A key for something about the task, on the same node of a cluster as its record."""
        key = self.task_key(task_id)
        # What is in the first braces decides: the record's own name, unless that has braces itself.
        return (key if b"{" in key else b"{" + key + b"}") + f".{what}".encode()

    def own_key(self, task_id: str, name: str) -> bytes:
        """The key of what a user keeps beside the record; apart from what this package keeps there.

        Raises:
            ValueError: The name is none: letters, digits and underscores, at most 64.
        """
        if not _OWN_NAME.match(name):
            raise ValueError(f"a name beside a record is letters, digits and underscores, not {name!r:.80}")
        return self.key_beside(task_id, f"own.{name}")

    def reply_key(self, task_id: str, request: str) -> bytes:
        """The key under which the worker that has the task answers a request to revoke it."""
        return self.key_beside(task_id, f"reply-{request}")

    def group_key(self, id: str) -> bytes:
        """The key of a saved group."""
        return self._group_prefix + str(id).encode()

    def workers_key(self) -> bytes:
        """The key that exists while there are workers of ours, so that somebody can answer a request."""
        return f"{self.key_prefix}asyncresult-workers".encode()


def task_keys(keys: Keys, task_ids: Sequence[str]) -> list[bytes]:
    """:meth:`Keys.task_key` of each, in half of the time (benchmarks: fetch)."""
    prefix = keys.task_key("")
    try:
        return [prefix + id.encode() for id in task_ids]
    except (UnicodeEncodeError, AttributeError):
        return [keys.task_key(id) for id in task_ids]  # which says of what kind the wrong one is
