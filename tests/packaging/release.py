"""``python3 dev release``: build what would be published into dist/, check it, and say what to do next.

Nothing is published, tagged or committed here. Beside wheel and sdist, dist/ gets their SHA-256 sums, and a bill of
materials (CycloneDX, JSON) of everything that is installed with the package or one of its extras, with licences.
"""

from __future__ import annotations

import hashlib
import importlib.metadata as metadata
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from asyncresult import __version__

from .__main__ import ROOT, build, check_contents

DIST = ROOT / "dist"
NAME = "asyncresult"


class Part(NamedTuple):
    name: str
    version: str
    licence: str
    needed: bool
    """By the package itself, not by an extra only."""


def complaints(changelog: str, version: str) -> Iterator[str]:
    """What the changelog lacks for this version."""
    heads = re.findall(r"^## (.+)$", changelog, re.MULTILINE)
    if not heads or heads[0] != "Unreleased":
        yield "docs/changelog.md does not begin with the heading 'Unreleased'"
    elif changelog.partition("## Unreleased\n")[2].partition("\n## ")[0].strip():
        yield "docs/changelog.md has entries under 'Unreleased': give them a version"
    if not any(re.fullmatch(rf"{re.escape(version)} - \d{{4}}-\d\d-\d\d", head) for head in heads):
        yield f"docs/changelog.md has no heading '{version} - YYYY-MM-DD'"


def licence_of(distribution: metadata.Distribution) -> str:
    """The SPDX expression; else what the older fields say; else the heading of the licence that comes with it."""
    found = distribution.metadata
    if expression := found.get_all("License-Expression"):
        return str(expression[0])
    classified = [
        line.rpartition(" :: ")[2] for line in found.get_all("Classifier") or [] if line.startswith("License")
    ]
    text = str((found.get_all("License") or [""])[0]).strip()
    # Some put the whole text of the licence there.
    said = " and ".join(classified) or (text if "\n" not in text else "")
    return said or _heading(distribution) or "not said"


def _heading(distribution: metadata.Distribution) -> str:
    for file in distribution.files or []:
        if file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING")):
            return file.read_text().strip().partition("\n")[0].strip()
    return ""


def parts() -> tuple[list[Part], list[str]]:
    """All distributions that an installation may bring, by name; and those that are not installed here."""
    extras = metadata.metadata(NAME).get_all("Provides-Extra") or []
    found: dict[str, Part] = {}
    missing: set[str] = set()
    # The package without extras first: what it needs, it needs.
    for needed, chosen in [(True, ("",)), (False, tuple(extras))]:
        todo = [(NAME, extra) for extra in chosen]
        seen = set(todo)
        while todo:
            name, extra = todo.pop()
            try:
                distribution = metadata.distribution(name)
            except metadata.PackageNotFoundError:
                missing.add(name)
                continue
            if name != NAME and name not in found:
                found[name] = Part(name, distribution.version, licence_of(distribution), needed)
            for line in distribution.requires or []:
                requirement = Requirement(line)
                if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                    for wanted in ("", *requirement.extras):
                        step = (canonicalize_name(requirement.name), wanted)
                        if step not in seen:
                            seen.add(step)
                            todo.append(step)
    return sorted(found.values()), sorted(missing)


def bill(found: list[Part]) -> dict[str, Any]:
    """A bill of materials. Source: CycloneDX 1.6."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "library", "name": NAME, "version": __version__}},
        "components": [
            {
                "type": "library",
                "name": part.name,
                "version": part.version,
                "purl": f"pkg:pypi/{part.name}@{part.version}",
                "scope": "required" if part.needed else "optional",
                "licenses": [{"license": {"name": part.licence}}],
            }
            for part in found
        ],
    }


def main() -> None:
    problems = list(complaints((ROOT / "docs" / "changelog.md").read_text(encoding="utf-8"), __version__))
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False)
    if changed.returncode == 0 and changed.stdout.strip():
        problems.append("there are changes that are not committed: what is built is not what would be tagged")
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    wheel, sdist = build(DIST)
    check_contents(wheel, sdist)
    found, missing = parts()
    (DIST / f"{NAME}-{__version__}.cdx.json").write_text(json.dumps(bill(found), indent=1) + "\n", encoding="utf-8")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in (sdist, wheel)]
    (DIST / "SHA256SUMS").write_text("\n".join(sums) + "\n", encoding="utf-8")
    print(f"\nasyncresult {__version__}, in dist/:")
    for path in sorted(DIST.iterdir()):
        print(f"  {path.name} ({path.stat().st_size:,} bytes)")
    print("\nLicences of what comes with it (*: with an extra only):")
    for part in found:
        print(f"  {part.name} {part.version}{'' if part.needed else ' *'}: {part.licence}")
    if missing:
        print(f"  not installed here, so not listed: {', '.join(missing)}")
    if problems:
        raise SystemExit("\n" + "\n".join(f"mend first: {problem}" for problem in problems))
    print(NEXT.format(version=__version__))


NEXT = """
Next, by hand:
  1. python3 dev test (-m "": all of them), lint, types, docs --look, package: all pass on this commit
  2. python3 dev matrix: writes docs/reference/compatibility.md; commit it
  3. git tag -a v{version} -m "asyncresult {version}", and push the tag
  4. python -m twine upload dist/*.whl dist/*.tar.gz
  5. publish site/, and a release with the changelog's entry, SHA256SUMS and the bill of materials"""


if __name__ == "__main__":
    main()
