"""Where the tests of a module are: in the file of its name, or in the one that is listed here.

The file of its name is ``test_<module>.py`` or ``test_<folder>_<module>.py``, in the folder of tests for its part of
the package. What is no idea of its own to users is tested through the face that they use, over every store and server.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

__all__ = ["LISTED", "THROUGH", "does_something", "own_files"]

TESTS = Path(__file__).parents[1]

#: Part of the package: the folders of its tests. For all other parts, the first row.
FOLDERS = {
    "": (".", "backends"),
    "cli": ("cli",),
    "codec": ("codec",),
    "integrations": ("integrations",),
    "sync": ("sync",),
    "web": ("web",),
}

#: Test file: the modules that are tested through what it is about.
THROUGH = {
    "backends/test_acl.py": "_redis.errors _redis.exceptions",
    "backends/test_cluster.py": "_redis.scattered _redis.shard",
    "backends/test_contract.py": "_handles.base _handles.handle _handles.known _handles.reads _handles.result"
    " _handles.waiting _storage.engine _storage.memory _storage.store errors",
    "backends/test_contract_sets.py": "_handles.functions _handles.groups _handles.looks _handles.making _handles.sets"
    " _handles.tree",
    "backends/test_jobs.py": "_calls",
    "backends/test_polled.py": "_storage.outage _storage.questions integrations.celery.polled"
    " integrations.celery.postgres integrations.celery.readers integrations.celery.readers.base"
    " integrations.celery.readers.database integrations.celery.readers.django integrations.celery.readers.keyvalue"
    " integrations.celery.readers.mongodb integrations.celery.readers.pickled integrations.celery.readers.rows",
    "backends/test_pump.py": "_redis.connection _redis.backoff _redis.reads",
    "backends/test_redis.py": "_log _redis.driver _redis.engine _redis.options _redis.single _redis.topology",
    "backends/test_track.py": "_handles.scope _request _storage.marks",
    "backends/test_urls.py": "_storage.options",
    "cli/test_doctor.py": "cli.checks.findings cli.checks.records cli.checks.redis cli.checks.rights"
    " cli.checks.settings cli.checks.store cli.checks.task",
    "cli/test_doctor_apps.py": "cli.checks.broker cli.checks.database cli.trigger",
    "cli/test_doctor_topologies.py": "cli.checks.topology",
    "cli/test_main.py": "cli.parser",
    "cli/test_results.py": "cli.output cli.status",
    "cli/test_tree.py": "cli.server",
    "cli/test_watch.py": "cli.live",
    "cli/test_demo.py": "cli.demo.processes cli.demo.scenes cli.demo.stage cli.demo.tasks",
    "integrations/test_celery_backend.py": "integrations.celery.redis integrations.celery.waiting",
    "integrations/test_celery_notes.py": "_storage.notes",
    "integrations/test_celery_config.py": "integrations.celery.app integrations.celery.kinds"
    " integrations.celery.settings",
    "integrations/test_celery_rpc.py": "integrations.celery.receiver",
    "integrations/test_celery_amqp.py": "integrations.celery.amqp_broker integrations.celery.amqp_connection"
    " integrations.celery.amqp_messages",
    "codec/test_writing.py": "codec.unstorable",
    "integrations/test_celery_sending.py": "integrations.celery.brokers integrations.celery.messages"
    " integrations.celery.publisher integrations.celery.redis_broker integrations.celery.redis_messages"
    " integrations.celery.turns",
    "integrations/test_celery_tasks.py": "integrations.celery.canvas",
    "integrations/test_django_tasks.py": "integrations.django integrations.django.apps integrations.django.base"
    " integrations.django.celery_backend integrations.django.checks integrations.django.documents"
    " integrations.django.exchange integrations.django.executor_backend integrations.django.foreign"
    " integrations.django.management.commands.asyncresult integrations.django.running integrations.django.settings"
    " integrations.django.templatetags.asyncresult integrations.django.views integrations.django.waiting",
    "test_current.py": "_extensions backend",
    "test_exports.py": "integrations._untyped",
    "test_jupyter.py": "_handles.html integrations.jupyter",
    "test_lookup.py": "_handles.eager",
    "test_locks.py": "integrations.celery.forks",
    "test_loops.py": "_storage.engines",
    "test_probe.py": "_storage.probed",
    "test_promise_following.py": "_promise_core",
    "test_promise_rejections.py": "_promise_reactions",
    "test_testing.py": "integrations.celery.memory testing.celery testing.fake_worker testing.memory testing.server",
    "sync/test_sets.py": "sync.base sync.functions sync.groups",
    "test_worker.py": "codec.tracebacks",
    "web/test_endpoints.py": "web.app web.documents web.page web.problems web.settings web.tokens web.tree web.urls",
    "web/test_stopping.py": "web.lifespan",
    "web/test_streams.py": "web.counts web.forms",
}
LISTED = Counter(" ".join(THROUGH.values()).split())


def own_files(module: str) -> list[Path]:
    """The test files that have the name of a module."""
    words = [word.lstrip("_") for word in module.split(".")]
    folders = FOLDERS.get(words[0], FOLDERS[""]) if len(words) > 1 else FOLDERS[""]
    names = ["_".join(words[start:]) for start in range(len(words))]
    if words[0] == "integrations":  # a module of one is called by both: Celery's and Django's have many in common
        names = ["_".join(words[1:])]
    return [path for folder in folders for name in names if (path := TESTS / folder / f"test_{name}.py").exists()]


def does_something(source: str) -> bool:
    """Whether a module defines a function or a class: not that of a package's docstring, of names and of constants."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(node, definitions) for node in ast.parse(source).body)
