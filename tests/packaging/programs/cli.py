"""The command line, with rich."""

from __future__ import annotations

from support import REDIS_URL, output

assert output("-m", "asyncresult", "--version").startswith("asyncresult ")
assert "where to go next" in output("-m", "asyncresult", "demo", "--memory")
assert "redis://" in output("-m", "asyncresult", "stats", "--url", REDIS_URL)
