"""The statistics of a backend in a registry."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

import asyncresult
from asyncresult.integrations.prometheus import collector

registry = CollectorRegistry()
registry.register(collector(asyncresult.connect("memory://")))
assert b"asyncresult_waiters{" in generate_latest(registry)
