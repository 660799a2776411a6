"""The blocking face against the async one and against the installed ``celery.result``: names, kinds, signatures.

Every difference that is found must be among those listed below, with its reason; and every one listed must be found.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from enum import Enum
from types import ModuleType
from typing import Any

import celery.result
import pytest

import asyncresult
from asyncresult import sync

CLASSES = ["AsyncResult", "EagerResult", "ResultSet", "GroupResult", "Updates", "Backend", "Executor"]
#: What a base differs in, its subclass need not be told to.
BASES = {"EagerResult": "AsyncResult", "GroupResult": "ResultSet"}
#: Made by connect() and by updates(), and never by users.
MADE_BY_FUNCTIONS = {"Backend", "Updates"}

PROMISES = "promises belong to a loop: then() gives a concurrent future, and what then() does is enough"
NO_LOOP = "nothing of an event loop comes out of the facade: as_concurrent_future() does"
CALLBACK = "Celery's: it gets the result itself, under Celery's name"
TRACKING = "the block is an asyncio task, which a revoke cancels: blocking code runs in an Executor"
KEYS = "for writers of other backends"

# How the facade differs from the async classes.
FROM_ASYNC = {
    "module.Promise: missing": PROMISES,
    "module.Settled: missing": PROMISES,
    "module.scope: missing": "a block that revokes when it fails is for structured concurrency, which threads have not",
    "module.value_of: missing": "for type checkers: the one of asyncresult serves",
    "module.Sent: missing": "data only: the one of asyncresult serves",
    "module.register_type: missing": "touches no network: the one of asyncresult serves",
    "module.TaskContext: missing": TRACKING,
    "module.current_task: missing": "touches no network: the one of asyncresult serves",
    "AsyncResult.catch: missing": PROMISES,
    "AsyncResult.finally_: missing": PROMISES,
    "AsyncResult.add_done_callback: missing": PROMISES,
    "AsyncResult.remove_done_callback: missing": PROMISES,
    "AsyncResult.as_future: missing": NO_LOOP,
    "AsyncResult.then: parameter on_success: missing": CALLBACK,
    "EagerResult: parameter backend: missing": "nothing about it is stored; Celery's has none",
    "ResultSet.catch: missing": PROMISES,
    "ResultSet.finally_: missing": PROMISES,
    "ResultSet.then: parameter on_success: missing": CALLBACK,
    "ResultSet.join_native: parameter return_exceptions: missing": "Celery's; get() has it",
    "GroupResult: parameter results: None is not ()": "Celery's",
    "Backend.aclose: missing": "close()",
    "Backend.track: missing": TRACKING,
    "Backend.tracked: missing": TRACKING,
    "Backend.command: missing": KEYS,
    "Backend.get_lifetime: missing": KEYS,
    "Backend.get_raw: missing": KEYS,
    "Backend.group_of: missing": KEYS,
    "Backend.is_group_key: missing": KEYS,
    "Backend.is_task_key: missing": KEYS,
    "Backend.options: missing": KEYS,
    "Backend.task_ids: missing": KEYS,
    "Backend.own_key: missing": KEYS,
    "Backend.task_key: missing": KEYS,
    "Backend.group_key: missing": KEYS,
    "Backend.key_beside: missing": KEYS,
    "Backend.precedes: missing": KEYS,
    "Backend.reply_key: missing": KEYS,
    "Backend.task_of: missing": KEYS,
    "Backend.workers_key: missing": KEYS,
    "Executor.room: missing": "submit() waits for capacity by itself",
    "Executor.wait_for_capacity: missing": "submit() waits for capacity by itself",
    "Updates.aclose: missing": "close()",
}

OF_INSTANCES = "an attribute of instances, not of the class"

# How the facade differs from Celery.
FROM_CELERY = {
    "AsyncResult.app: missing": OF_INSTANCES,
    "EagerResult.get: in place of disable_sync_subtasks: interval": "the order of the class that it derives from",
    "EagerResult.wait: in place of disable_sync_subtasks: interval": "likewise",
    "EagerResult: parameter state: 'SUCCESS' is not <class 'inspect._empty'>": "as of the async class",
    "GroupResult.id: missing": OF_INSTANCES,
    "ResultSet.results: missing": OF_INSTANCES,
}


class Kind(Enum):
    VALUE = "a value that can be read"
    METHOD = "a method"


def public(thing: Any) -> set[str]:
    """The names of a class, or of what a module says that it gives."""
    if isinstance(thing, ModuleType):
        return set(thing.__all__)
    return {name for name in dir(thing) if not name.startswith("_")}


def kind_of(cls: Any, name: str) -> Kind:
    value = inspect.getattr_static(cls, name)
    if inspect.isclass(value):
        return Kind.VALUE
    if callable(value) or isinstance(value, (classmethod, staticmethod)):
        return Kind.METHOD
    return Kind.VALUE


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("self", "cls") and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def positional(function: Callable[..., Any]) -> list[str]:
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, parameter in parameters(function).items() if parameter.kind in by_place]


def signature_differences(ours: Callable[..., Any], theirs: Callable[..., Any], *, order: bool) -> Iterator[str]:
    """What could be given there but not here, or would mean something else."""
    here, there = parameters(ours), parameters(theirs)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(ours).parameters.values())
    for name, parameter in there.items():
        if name not in here:
            if not takes_any:
                yield f"parameter {name}: missing"
        elif here[name].default != parameter.default:
            yield f"parameter {name}: {here[name].default!r} is not {parameter.default!r}"
    if order:
        places = zip(positional(ours), positional(theirs), strict=False)
        yield from (f"in place of {their}: {our}" for our, their in places if our != their)


def class_differences(ours: type, theirs: type, *, kinds: bool, order: bool) -> Iterator[str]:
    for name in sorted(public(theirs)):
        label = f"{ours.__name__}.{name}"
        if not hasattr(ours, name):
            yield f"{label}: missing"
            continue
        if kinds and kind_of(ours, name) is not kind_of(theirs, name):
            yield f"{label}: {kind_of(ours, name).value}, there {kind_of(theirs, name).value}"
        elif kind_of(ours, name) is kind_of(theirs, name) is Kind.METHOD:
            found = signature_differences(getattr(ours, name), getattr(theirs, name), order=order)
            yield from (f"{label}: {difference}" for difference in found)
    if ours.__name__ not in MADE_BY_FUNCTIONS:
        yield from (f"{ours.__name__}: {d}" for d in signature_differences(ours, theirs, order=order))


def without_the_bases(found: set[str]) -> set[str]:
    inherited = {
        difference
        for difference in found
        for name, base in BASES.items()
        if difference.startswith(name) and difference.replace(name, base, 1) in found
    }
    return found - inherited


def differences_from_async() -> set[str]:
    found = {f"module.{name}: missing" for name in public(asyncresult) - public(sync) if not _needs_no_loop(name)}
    for name in CLASSES:
        # Celery's order of parameters, and Celery's properties in place of coroutines.
        found |= set(class_differences(getattr(sync, name), getattr(asyncresult, name), kinds=False, order=False))
    return without_the_bases(found)


def _needs_no_loop(name: str) -> bool:
    """Errors and records are the same on both faces."""
    value = getattr(asyncresult, name)
    return (inspect.isclass(value) and issubclass(value, Exception)) or value in (
        asyncresult.TaskMeta,
        asyncresult.BackendStats,
        asyncresult.Health,
        asyncresult.Probe,
        asyncresult.WaitEnded,
        asyncresult.DependencyGraph,
        asyncresult.__version__,
    )


def differences_from_celery() -> set[str]:
    importlib.import_module("asyncresult.integrations.celery")  # which gives Celery's results a handle
    import_order_does_not_matter = {"EagerResult.handle: missing"}
    names = {
        name
        for name, value in vars(celery.result).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == celery.result.__name__
    }
    found = {f"module.{name}: missing" for name in names - public(sync)}
    for name in names & public(sync):
        ours, theirs = getattr(sync, name), getattr(celery.result, name)
        if inspect.isclass(theirs):
            found |= set(class_differences(ours, theirs, kinds=True, order=True))
        else:
            found |= {f"{name}: {d}" for d in signature_differences(ours, theirs, order=True)}
    return without_the_bases(found) - import_order_does_not_matter


@pytest.mark.parametrize(
    ("find", "intended"),
    [(differences_from_async, FROM_ASYNC), (differences_from_celery, FROM_CELERY)],
    ids=["asyncresult", "celery.result"],
)
def test_only_the_intended_differences(find: Callable[[], set[str]], intended: dict[str, str]) -> None:
    found = find()
    assert sorted(found - set(intended)) == [], "differences that nobody intended"
    assert sorted(set(intended) - found) == [], "entries that do not differ any more"


def test_every_public_name_has_a_docstring() -> None:
    for name in sync.__all__:
        thing = getattr(sync, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        assert thing.__doc__, name
        for member, value in vars(thing).items() if inspect.isclass(thing) else ():
            if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{name}.{member}"
