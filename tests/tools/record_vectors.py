"""``python -m tests.tools.record_vectors``: write docs/reference/celery-records.json, for authors in other languages.

A few of the records that the tests are run against, all as real workers stored them: one of each kind, and small.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["PATH", "vectors"]

_ROOT = Path(__file__).parents[2]
PATH = _ROOT / "docs" / "reference" / "celery-records.json"

#: Records of each status, at most; and bytes of the payload of one.
_EACH, _BYTES = 6, 600


def vectors() -> list[dict[str, Any]]:
    """The chosen ones: what was stored, and what Celery reads in it."""
    captured: list[dict[str, Any]] = json.loads((_ROOT / "tests" / "data" / "celery-vectors.json").read_text("utf-8"))
    chosen: list[dict[str, Any]] = []
    count: dict[str, int] = {}
    for vector in captured:
        payload, expected = vector.get("raw_value"), vector.get("expected") or {}
        status = expected.get("status")
        if vector["kind"] != "result" or vector.get("raw_encoding") != "utf-8" or status is None or not payload:
            continue
        if not vector["name"].startswith("json/") or len(payload) > _BYTES or count.get(status, 0) == _EACH:
            continue
        count[status] = count.get(status, 0) + 1
        chosen.append(
            {
                "name": vector["name"].removeprefix("json/"),
                "celery": vector["celery_version"],
                "key": vector["key"],
                "channel": vector["channel"],
                "ttl": vector["ttl"],
                "payload": payload,
                "status": status,
                "ready": expected["ready"],
            }
        )
    return chosen


def text() -> str:
    """The file."""
    return json.dumps(vectors(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
