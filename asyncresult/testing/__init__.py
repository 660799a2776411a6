"""For the tests of applications: a backend in memory, a fake worker, a Celery app that needs no server, a real server.

With pytest they are fixtures, which come with the package (:mod:`asyncresult.pytest_plugin`). Here they are context
managers, for other test frameworks. They block nothing and need no event loop.

* :func:`memory_backend`: a backend without a server; for a test.
* :class:`FakeWorker`: stores what a worker would, at once or later, with an outage in between.
* :func:`private_server`: a Redis or Valkey server on a free loopback port.
* :func:`asyncresult.testing.celery.in_memory`: an app of yours whose tasks run, or wait, without worker and server.
"""

from __future__ import annotations

from .fake_worker import FakeWorker
from .memory import memory_backend
from .server import PrivateServer, ServerMissing, private_server

__all__ = ["FakeWorker", "PrivateServer", "ServerMissing", "memory_backend", "private_server"]
