"""``python3 -m tests.matrix.taskiq_suites``: the tests of taskiq and of taskiq-redis, with our result backend.

They are fetched for the run, into a directory that is deleted after it: taskiq's from the package index, in the version
that is installed; those of taskiq-redis, whose package has none, from its repository. The servers are private ones.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from tests.tools.servers import RedisServer
from tests.tools.topologies import Cluster, Sentinels

#: The newest tag; the tests of the result backend are the same in 1.2.4.
ARCHIVE = "https://github.com/taskiq-python/taskiq-redis/archive/refs/tags/1.2.2.tar.gz"
TASKIQ_TESTS = [
    "tests/test_task.py",
    "tests/test_funcs.py",
    "tests/test_requeue.py",
    "tests/test_state.py",
    "tests/test_exceptions_flow.py",
    "tests/brokers/test_inmemory.py",
    "tests/depends/test_progress_tracker.py",
    "tests/middlewares/test_simple_retry.py",
    "tests/middlewares/test_task_retry.py",
]
#: What looks into the memory of taskiq's own result backend, or at the moment between a result and the end of its task,
#: or wants an exception back that has no constructor.
NOT_MEANT = [
    "tests/brokers/test_inmemory.py::test_inmemory_success",
    "tests/depends/test_progress_tracker.py::test_progress_tracker_validation_error",
    "tests/middlewares/test_task_retry.py::test_wait_result_error",
    "tests/middlewares/test_task_retry.py::test_wait_result_no_result",
]
REDIS_TESTS = ["tests/test_result_backend.py"]
SECONDS = 120


class Missing(Exception):
    """The tests cannot be fetched: no network, most likely."""


def fetch_taskiq(directory: Path) -> Path:
    """Raises Missing."""
    wanted = f"taskiq=={version('taskiq')}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "taskiq", "-d"]
    done = subprocess.run([*command, str(directory), wanted], capture_output=True, text=True, timeout=SECONDS)
    found = list(directory.glob("taskiq-*.tar.gz"))
    if done.returncode or not found:
        raise Missing(f"{wanted}: {done.stderr.strip()[-200:]}")
    return unpack(found[0], directory)


def fetch_taskiq_redis(directory: Path) -> Path:
    """Raises Missing."""
    archive = directory / "taskiq-redis.tar.gz"
    try:
        with urllib.request.urlopen(ARCHIVE, timeout=20) as answer:
            archive.write_bytes(answer.read())
    except OSError as error:
        raise Missing(f"{ARCHIVE}: {error}") from None
    return unpack(archive, directory)


def unpack(archive: Path, directory: Path) -> Path:
    with tarfile.open(archive) as file:
        top = file.getnames()[0].partition("/")[0]
        file.extractall(directory, filter="data")
    return directory / top


def run(source: Path, tests: list[str], environment: dict[str, str]) -> str:
    """Run these tests of theirs; pytest's last line.

    Raises:
        AssertionError: Some fail.
    """
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        # Theirs is a package of the name tests, too, so ours cannot be on the path.
        shutil.copytree(source / "tests", home / "tests")
        shutil.copy(Path(__file__).with_name("taskiq_shim.py"), home / "taskiq_shim.py")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "taskiq_shim", "-p", "anyio", "-p", "no:cacheprovider"]
        command += [f"--deselect={test}" for test in NOT_MEANT]
        command += ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]
        done = subprocess.run(
            [*command, *(test for test in tests if (home / test).exists())],
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(home), **environment},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        return re.sub(r" in [\d.]+s.*|=", "", done.stdout.splitlines()[-1]).strip()


def run_taskiq(source: Path) -> str:
    return run(source, TASKIQ_TESTS, {})


def run_taskiq_redis(source: Path) -> str:
    with servers() as environment:
        return run(source, REDIS_TESTS, environment)


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    """A server, a cluster and sentinels, as the fixtures of taskiq-redis look for them."""
    with RedisServer() as single, Cluster(masters=3, replicas=0) as cluster, Sentinels() as sentinels:
        node, watcher = cluster.servers[0], sentinels.sentinels[0]
        yield {
            "TEST_REDIS_URL": single.url(),
            "TEST_REDIS_CLUSTER_URL": f"redis://{node.host}:{node.port}",
            "TEST_REDIS_SENTINELS": f"{watcher.host}:{watcher.port}",
            "TEST_REDIS_SENTINEL_MASTER_NAME": sentinels.service,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tests.matrix.taskiq_suites", description=__doc__)
    parser.add_argument("--taskiq", type=Path, help="a checkout of it, in place of what is fetched")
    parser.add_argument("--taskiq-redis", type=Path, help="likewise")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        print("taskiq:", run_taskiq(given.taskiq or fetch_taskiq(Path(directory))))
        print("taskiq-redis:", run_taskiq_redis(given.taskiq_redis or fetch_taskiq_redis(Path(directory))))


if __name__ == "__main__":
    main()
