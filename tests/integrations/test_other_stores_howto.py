"""The page docs/howto/other-stores.md does what it says: its examples are run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.celery_worker import CeleryWorker

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.celery


@pytest.mark.parametrize("broker", [pytest.param("rabbitmq", marks=pytest.mark.rabbitmq), "redis"])
def test_rpc(broker: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = request.getfixturevalue("rabbitmq_url" if broker == "rabbitmq" else "redis_url")
    page = (ROOT / "docs" / "howto" / "other-stores.md").read_text(encoding="utf-8")
    code = re.search(r'```python title="demo.py"\n(.*?)```', page, re.DOTALL)
    assert code is not None
    (tmp_path / "demo.py").write_text(code[1], encoding="utf-8")
    env = {"BROKER": url, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    with CeleryWorker(broker=url, backend="rpc://", app="demo:app", env=env):
        run = subprocess.run(
            [sys.executable, tmp_path / "demo.py"],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert run.returncode == 0, run.stderr
    steps = ["step 0", "step 1", "step 2", "Task finished after 3 steps."]
    assert run.stdout.splitlines() == ["15", "15", "30", *steps]
