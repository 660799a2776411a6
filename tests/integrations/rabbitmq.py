"""A private RabbitMQ node, on ports and in a directory of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.tools.processes import Child, private_directory, wait_until
from tests.tools.servers import ServerMissing, free_port

__all__ = ["rabbitmq"]

# The script of that name on PATH would change to another user, who cannot read our directory.
_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


@contextmanager
def rabbitmq() -> Generator[str]:
    """Start a node; its URL.

    Raises:
        ServerMissing: It is not installed (Debian: apt install rabbitmq-server).
    """
    server = str(_SERVER) if _SERVER.exists() else shutil.which("rabbitmq-server")
    names = shutil.which("epmd")  # its name server: started here, or else it would stay behind
    if server is None or names is None:
        raise ServerMissing("no rabbitmq-server: Debian's package of that name has it")
    directory = private_directory()
    port, names_port = free_port(), free_port()
    env = {
        **os.environ,
        "HOME": str(directory),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(names_port),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_LOG_BASE": str(directory),
        "RABBITMQ_MNESIA_BASE": str(directory),
        "RABBITMQ_NODENAME": "asyncresult@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_PID_FILE": str(directory / "pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none",
    }
    children = [Child([names, "-address", "127.0.0.1", "-port", str(names_port)], log=directory / "names", env=env)]
    try:
        node = Child([server], log=directory / "log", env=env, cwd=directory)
        children.append(node)
        wait_until(lambda: "Server startup complete" in node.output(), "RabbitMQ is ready", timeout=60, interval=0.1)
        yield f"amqp://guest:guest@127.0.0.1:{port}//"
    finally:
        for child in reversed(children):
            child.kill()
