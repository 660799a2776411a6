"""The page docs/howto/celery.md does what it says: its first example is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.celery_worker import CeleryWorker
from tests.tools.servers import RedisServer

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.celery


@pytest.mark.parametrize("plug_in", ["", "asyncresult+"])
def test_the_example(plug_in: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "howto" / "celery.md").read_text(encoding="utf-8")
    for title, code in re.findall(r'```python title="(\S+)"\n(.*?)```', page, re.DOTALL):
        (tmp_path / title).write_text(code, encoding="utf-8")
    with RedisServer() as server:
        env = {
            "BROKER": server.url(0),
            "RESULTS": plug_in + server.url(1),
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        }
        with CeleryWorker(broker=server.url(0), app="project:app", pool="threads", concurrency=2, env=env):
            run = subprocess.run(
                [sys.executable, tmp_path / "main.py"],
                env={**os.environ, **env},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["5", "1 2 3", "[0, 2, 4]", "10", "12"]
