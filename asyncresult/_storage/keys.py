"""Every key that is read or written, and its rule.

Keys and channels of records and groups are Celery's, byte for byte. What else is kept about a task lies beside its
record, on the same node of a cluster.

Source: celery/backends/base.py (5.7), KeyValueStoreBackend.
"""

from __future__ import annotations

import functools
import itertools
import re
from binascii import crc_hqx
from collections.abc import Sequence

__all__ = ["HISTORY", "REVOKE", "SENT", "SLOTS", "Keys", "slot_of", "task_keys"]

#: Slots of a cluster.
SLOTS = 16384

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
        # A key beside a task that has a hash tag begins with the task's own.
        return _tag_of(key) is None or _BESIDE.search(key) is None

    def is_group_key(self, key: bytes) -> bool:
        """Whether a saved group lies under ``key``."""
        return key.startswith(self._group_prefix)

    def group_of(self, key: bytes) -> str:
        """The group that is saved under ``key``."""
        return key[len(self._group_prefix) :].decode()

    def key_beside(self, task_id: str, what: str) -> bytes:
        """A key for something about the task, on the same node of a cluster as its record."""
        key = self.task_key(task_id)
        return (key if _tag_of(key) is not None else _tagged(key)) + f".{what}".encode()

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


def slot_of(key: bytes) -> int:
    """The slot of a key or shard channel in a cluster. Source: Redis cluster specification, hash tags."""
    tag = _tag_of(key)
    return crc_hqx(key if tag is None else tag, 0) % SLOTS


def _tag_of(key: bytes) -> bytes | None:
    """The part of a key that decides where it lies; None where the whole key does.

    "If there is a } character to the right of {, and if there are one or more characters between the first occurrence
    of { and the first occurrence of }" (Redis cluster specification, "Hash tags").
    """
    start = key.find(b"{") + 1
    end = key.find(b"}", start) if start else -1
    return key[start:end] if end > start else None


def _tagged(key: bytes) -> bytes:
    """What begins the keys beside ``key``, which has no hash tag: it has one, and lies where ``key`` does."""
    if b"}" not in key:
        return b"{" + key + b"}"
    # That brace would end the tag too soon. A tag of the same slot, which begins as the patterns of an ACL require.
    return b"{" + _neighbour(key) + b"}" + key


@functools.lru_cache(maxsize=1024)  # it takes some milliseconds
def _neighbour(key: bytes) -> bytes:
    """A text without closing braces that lies in the slot of ``key`` and begins as that does."""
    start = key.partition(b"}")[0]
    slot, crc = slot_of(key), crc_hqx(start, 0)
    return next(start + tail for tail in map(b"%d".__mod__, itertools.count()) if crc_hqx(tail, crc) % SLOTS == slot)
