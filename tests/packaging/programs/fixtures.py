"""The fixtures are there once the package is installed, and do not get in the way of who does not use them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support import absent

TESTS = """
import sys

def test_nothing_is_imported():
    assert "redis" not in sys.modules and "asyncresult.backend" not in sys.modules

def test_blocking(fake_worker):
    from asyncresult import sync
    fake_worker.succeed("1", 7, delay=0.05)
    assert sync.AsyncResult("1").get(timeout=20) == 7

def test_a_server(asyncresult_redis_url):
    from asyncresult import sync
    with sync.connect(asyncresult_redis_url) as backend:
        backend.mark_as_done("1", 7)
        assert backend.result("1").get(timeout=20) == 7
"""

absent("pytest_asyncio", "celery")
Path("test_fixtures.py").write_text(TESTS, encoding="utf-8")
done = subprocess.run([sys.executable, "-m", "pytest", "-q", "test_fixtures.py"], capture_output=True, text=True)
assert "3 passed" in done.stdout, done.stdout + done.stderr
