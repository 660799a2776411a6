"""``python -m tests.matrix.celery_suite``: Celery's own integration tests, with its ``rpc://`` and with ours.

They are fetched for the run, as the source distribution of the Celery that is installed, and thrown away after it.
Tasks and replies go through a private RabbitMQ; a private Redis is for what the tests keep beside. What is printed
belongs into docs/reference/compatibility.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from tests.integrations.rabbitmq import RabbitMQ
from tests.tools.servers import RedisServer

ROOT = Path(__file__).parents[2]
FILES = ("t/integration/test_tasks.py", "t/integration/test_canvas.py")
#: For one test: what hangs with stock Celery hangs for its own timeouts, of minutes.
SECONDS = 30
BACKENDS = ("rpc://", "asyncresult+rpc://")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        suite = Path(directory)
        fetch(suite)
        outcomes = {backend: run(suite, backend) for backend in BACKENDS}
    for backend, found in outcomes.items():
        print(backend, dict(Counter(found.values())))
    stock, ours = (outcomes[backend] for backend in BACKENDS)
    for name in sorted(stock.keys() | ours.keys()):
        if stock.get(name) != ours.get(name):
            print(f"{name}: {stock.get(name)} with stock Celery, {ours.get(name)} with asyncresult")


def fetch(suite: Path) -> None:
    """Put Celery's tests, without its package, into ``suite``; and what stops a test that hangs."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    source = [*pip, "download", "--no-binary", "celery", "--no-deps", "--dest", str(suite)]
    subprocess.run([*source, f"celery=={version('celery')}"], check=True)
    subprocess.run([*pip, "install", "--no-deps", "--target", str(suite / "extra"), "pytest-timeout"], check=True)
    with tarfile.open(next(suite.glob("*.tar.gz"))) as archive:
        top = archive.getnames()[0].partition("/")[0]
        archive.extractall(suite, filter="data")
    (suite / top / "t").rename(suite / "t")


def run(suite: Path, backend: str) -> dict[str, str]:
    """The outcome of each test."""
    report = suite / "report.xml"
    with RabbitMQ() as node, RedisServer() as redis:
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(suite / "extra"), str(ROOT), str(suite)]),
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(redis.port),
            "TEST_BACKEND": backend,
            "TEST_BROKER": node.url(vhost=node.new_vhost()),
        }
        options = ["-q", "--tb=line", "-W", "ignore", "-o", "python_classes=test_*", "--timeout", str(SECONDS)]
        command = [sys.executable, "-m", "pytest", "-p", "celery.contrib.pytest", "-p", "no:cacheprovider", *options]
        subprocess.run([*command, "--junitxml", str(report), *FILES], cwd=suite, env=env, check=False)
    return {
        f"{case.get('classname')}::{case.get('name')}": case[0].tag if len(case) else "passed"
        for case in ElementTree.parse(report).iter("testcase")
    }


if __name__ == "__main__":
    main()
