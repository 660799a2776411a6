"""The package alone: every public name, and the programs of the tutorial up to Celery."""

from __future__ import annotations

import shlex

from support import absent, background, output

absent("celery", "kombu", "django", "starlette", "fastapi", "pydantic", "rich", "psycopg", "pytest", "uvloop", "yaml")

import asyncresult
import asyncresult.sync

for face in (asyncresult, asyncresult.sync):
    for name in face.__all__:
        getattr(face, name)

assert "2 + 3 = 5" in output("first.py")
assert output("ids.py").endswith("SUCCESS report.pdf\n")
assert "failed: division by zero" in output("failures.py")
assert "in order: [9, 1, 4]" in output("many.py")
with background(*shlex.split("worker.py greeting-1")):
    assert output("reader.py", "greeting-1") == "hello from worker.py\n"
