"""From the bytes straight into the record: one call of msgspec's decoder.

When it may be taken: :mod:`.codec`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from ..meta import TaskMeta
from .json import SLOW_NUMBERS_BYTES, Bytes, escapes_ascii

__all__ = ["MANY_BYTES", "decode_many", "fast_decode"]

fast_decode: Callable[[Bytes], TaskMeta] = msgspec.json.Decoder(TaskMeta).decode
#: Bytes of records that are decoded in one go, less than these: one to two milliseconds.
MANY_BYTES = 256 * 1024


def decode_many(limit: int, task_ids: Sequence[str], payloads: Sequence[bytes | None]) -> list[TaskMeta] | None:
    """Ordinary records, with one search in all of them for what is not (benchmarks: fetch, join-stored).

    Returns: None if one is missing, larger than ``limit``, or out of the ordinary in any way.
    """
    try:
        largest = max(map(len, payloads))  # type: ignore[arg-type]
        if largest > limit or largest >= SLOW_NUMBERS_BYTES:
            return None
        if largest * len(payloads) >= MANY_BYTES and sum(map(len, payloads)) >= MANY_BYTES:  # type: ignore[arg-type]
            return None
        together = b"".join(payloads)  # type: ignore[arg-type]
        # An escape that two payloads have between them hides nothing: the first of the two is no JSON then.
        if together.rfind(b"__type__") >= 0 or (together.find(b"\\") >= 0 and escapes_ascii(together)):
            return None
        metas = list(map(fast_decode, payloads))  # type: ignore[arg-type]
    except (TypeError, ValueError, RecursionError):  # TypeError: one is missing
        return None
    return metas if [meta.task_id if meta._extra is None else None for meta in metas] == task_ids else None
