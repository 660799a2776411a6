"""A private RabbitMQ node, on ports and in a directory of its own: ``with RabbitMQ() as node: …``."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tests.tools.processes import Child, ServerMissing, private_directory, wait_until
from tests.tools.servers import HOST, free_port

__all__ = ["RabbitMQ"]

# Debian's script of that name on PATH would change to another user, who cannot read our directory.
_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
#: Virtual hosts of a node, besides "/": made when it starts, because each call of rabbitmqctl takes seconds.
_VHOSTS = 24


class RabbitMQ:
    """A node that is started by ``with``, and may be restarted; what is durable in it stays.

    Args:
        config: Lines of its configuration file.

    Raises:
        ServerMissing: It is not installed (Debian: apt install rabbitmq-server).
    """

    def __init__(self, config: Sequence[str] = ()) -> None:
        server = str(_SERVER) if _SERVER.exists() else shutil.which("rabbitmq-server")
        names = shutil.which("epmd")  # its name server: started here, or else it would stay behind
        if server is None or names is None:
            raise ServerMissing("no rabbitmq-server: Debian's package of that name has it")
        self.port = free_port()
        self._server = server
        self._names_port = free_port()
        self._names_command = [names, "-address", HOST, "-port", str(self._names_port)]
        self._directory = directory = private_directory()
        self._free_vhosts = [f"test-{number}" for number in range(_VHOSTS)]
        definitions = directory / "definitions.json"
        definitions.write_text(json.dumps(_definitions(["/", *self._free_vhosts])))
        configuration = directory / "rabbitmq.conf"
        configuration.write_text("\n".join([f"load_definitions = {definitions}", *config, ""]))
        self._env = {
            **os.environ,
            "HOME": str(directory),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self._names_port),
            "RABBITMQ_CONFIG_FILE": str(configuration),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": str(directory),
            "RABBITMQ_MNESIA_BASE": str(directory),
            "RABBITMQ_NODENAME": "asyncresult@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none",
        }
        self._names: Child | None = None
        self._node: Child | None = None

    def url(self, *, vhost: str = "/", port: int | None = None, password: str = "guest") -> str:
        """Where it is; another port is that of a proxy."""
        return f"amqp://guest:{password}@{HOST}:{port or self.port}/{vhost}"

    def new_vhost(self) -> str:
        """A virtual host that nobody uses: its own queues and exchanges, whatever they are called elsewhere."""
        return self._free_vhosts.pop()

    def ctl(self, *words: str) -> None:
        """Have the node do something: ``ctl("add_user", …)``."""
        tool = str(_SERVER.with_name("rabbitmqctl")) if _SERVER.exists() else "rabbitmqctl"
        subprocess.run([tool, "-q", *words], env=self._env, cwd=self._directory, check=True, capture_output=True)

    def start(self) -> None:
        """Start the node, and wait until it takes connections."""
        if self._names is None:
            self._names = Child(self._names_command, log=self._directory / "names", env=self._env)
        node = Child([self._server], log=self._directory / "log", env=self._env, cwd=self._directory)
        self._node = node
        wait_until(lambda: "Server startup complete" in node.output(), "RabbitMQ is ready", timeout=90, interval=0.1)

    def stop(self) -> None:
        """End the node as its own scripts do: with a SIGTERM, upon which it writes down what is durable."""
        if self._node is not None:
            self._node.stop(30)
            self._node = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        for child in (self._node, self._names):
            if child is not None:
                child.kill()


def _definitions(vhosts: Sequence[str]) -> dict[str, Any]:
    """Virtual hosts, and the user guest with all rights in each."""
    salt = b"salt"  # RabbitMQ's own form: four bytes, and the hash of these and the password
    password = base64.b64encode(salt + hashlib.sha256(salt + b"guest").digest()).decode()
    every: dict[str, Any] = {"user": "guest", "configure": ".*", "write": ".*", "read": ".*"}
    return {
        "users": [{"name": "guest", "password_hash": password, "tags": "administrator"}],
        "vhosts": [{"name": name} for name in vhosts],
        "permissions": [{**every, "vhost": name} for name in vhosts],
    }
