"""What ``python3 dev release`` finds out before anything is built. The building is tried by running it."""

from __future__ import annotations

import pytest

pytest.importorskip("packaging")

from tests.packaging.release import bill, complaints, parts


@pytest.mark.parametrize(
    ("changelog", "words"),
    [
        ("# Changelog\n\n## Unreleased\n\n## 1.2.0 - 2026-01-31\n\n* Text.\n", []),
        ("# Changelog\n\n## 1.2.0 - 2026-01-31\n", ["Unreleased"]),
        ("# Changelog\n\n## Unreleased\n\n* New.\n\n## 1.2.0 - 2026-01-31\n", ["entries"]),
        ("# Changelog\n\n## Unreleased\n\n## 1.1.0 - 2026-01-31\n", ["1.2.0"]),
        ("# Changelog\n\n## Unreleased\n\n## 1.2.0\n", ["1.2.0"]),
    ],
)
def test_changelog(changelog: str, words: list[str]) -> None:
    found = list(complaints(changelog, "1.2.0"))
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


def test_licences_are_known() -> None:
    found, missing = parts()
    needed = {part.name: part for part in found if part.needed}
    assert {"redis", "hiredis", "anyio", "msgspec"} <= set(needed)
    assert [part.name for part in found if part.licence == "not said"] == []
    assert not set(missing) & {"redis", "hiredis", "anyio", "msgspec"}
    optional = {part.name for part in found if not part.needed}
    assert {"celery", "kombu", "starlette"} <= optional
    components = {component["name"]: component for component in bill(found)["components"]}
    assert components["celery"]["scope"] == "optional"
    assert components["redis"]["scope"] == "required"
