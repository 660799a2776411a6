"""Fails where the tests cover too little, of the package or of one file. Reads what ``--cov`` has written."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path

from coverage import Coverage

AS_A_WHOLE = 97.0
EACH_FILE = 90.0
"""Percent of statements and branches."""


def main() -> None:
    coverage = Coverage()
    coverage.load()
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "coverage.json"
        whole = coverage.json_report(outfile=str(report))
        files = json.loads(report.read_text(encoding="utf-8"))["files"]
    percent = {name: found["summary"]["percent_covered"] for name, found in files.items()}
    least = sorted(percent, key=percent.__getitem__)
    print(f"coverage: {whole:.1f} % of statements and branches; least:")
    for name in least[:5]:
        print(f"  {percent[name]:5.1f} %  {name}")
    wrong = [
        f"{name} has {percent[name]:.1f} %, and must have {EACH_FILE:.0f}"
        for name in least
        if percent[name] < EACH_FILE
    ]
    if whole < AS_A_WHOLE:
        wrong.append(f"the package has {whole:.1f} %, and must have {AS_A_WHOLE:.0f}")
    if wrong:
        missing = io.StringIO()
        coverage.report(show_missing=True, skip_covered=True, file=missing)
        print(missing.getvalue())
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
