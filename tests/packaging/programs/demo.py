"""The demo, with the server and the Celery worker that the extra brings."""

from __future__ import annotations

import subprocess

done = subprocess.run(["asyncresult", "demo"], stdout=subprocess.PIPE, text=True, timeout=100, check=True)
assert "2 + 3 = 5" in done.stdout
assert "the answer is 42" in done.stdout
