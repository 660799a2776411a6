"""Fails where the tests cover too little, of the package or of one file. Reads what ``--cov`` has written."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from coverage import Coverage

AS_A_WHOLE = 97.0
EACH_FILE = 90.0
"""Percent of statements and branches."""

NEEDS = {
    "rabbitmq-server": ("asyncresult/integrations/celery/amqp_*.py", "asyncresult/integrations/celery/rpc.py"),
    "pg_ctlcluster": ("asyncresult/integrations/celery/postgres.py",),
}
"""Program, and what is hardly run where it is missing, because its tests are skipped: that is left out there."""


def left_out() -> list[str]:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    missing = [program for program in NEEDS if not shutil.which(program, path=path)]
    for program in missing:
        print(f"coverage: without {program}, so without {', '.join(NEEDS[program])}")
    return [pattern for program in missing for pattern in NEEDS[program]]


def percent_of(summaries: list[dict[str, Any]]) -> float:
    covered: int = sum(summary["covered_lines"] + summary["covered_branches"] for summary in summaries)
    total: int = sum(summary["num_statements"] + summary["num_branches"] for summary in summaries)
    return 100 * covered / total


def main() -> None:
    coverage = Coverage()
    coverage.load()
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "coverage.json"
        coverage.json_report(outfile=str(report))
        files = json.loads(report.read_text(encoding="utf-8"))["files"]
    patterns = left_out()
    counted = {
        name: found["summary"]
        for name, found in files.items()
        if not any(fnmatch(name, pattern) for pattern in patterns)
    }
    whole = percent_of(list(counted.values()))
    percent = {name: summary["percent_covered"] for name, summary in counted.items()}
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
