"""What the user of the connection may do, tried on a key of our own, and the rule that is missing.

Source: docs/reference/acl.md has the rules as a whole.
"""

from __future__ import annotations

import re

from ..._storage.keys import HISTORY
from ...backend import Backend
from ..server import Refused, Server, Word, text_of
from .findings import Finding

__all__ = ["missing_rule", "rights", "user_name"]

_COMMAND = re.compile(r"run the '([\w|]+)' command")


async def rights(backend: Backend, server: Server, id: str) -> list[Finding]:
    """The commands of readers and of writers. None leaves anything behind.

    Args:
        id: Of a task that does not exist.
    """
    key, history = backend.task_key(id), backend.key_beside(id, HISTORY)
    reading: list[tuple[Word, ...]] = [("PING",), ("MGET", key), ("STRLEN", key), ("DEL", key)]
    writing: list[tuple[Word, ...]] = [
        ("GET", key),
        ("SET", key, "", "PX", 1),
        ("PUBLISH", key, ""),
        ("EVAL", "return 1", 0),
        ("EVALSHA", "0" * 40, 0),
        ("EXISTS", key),
        ("EXPIRE", history, 1),
        ("XADD", history, "NOMKSTREAM", "*", "doctor", ""),
        ("XRANGE", history, "-", "+", "COUNT", 1),
    ]
    user = await user_name(server)
    findings: list[Finding] = []
    if rules := await _missing(backend, server, reading):
        findings.append(
            Finding(
                "rights",
                "error",
                f"the user {user!r} may not do what waiting takes",
                f"ACL SETUSER {user} {' '.join(rules)}",
            )
        )
    if rules := await _missing(backend, server, writing):
        findings.append(
            Finding(
                "rights",
                "note",
                f"the user {user!r} may not store results: enough to wait, and not for track(), Executor or revoking",
                f"if it is to: ACL SETUSER {user} {' '.join(rules)}",
            )
        )
    return findings or [Finding("rights", "ok", f"the user {user!r} may wait for results and store them")]


async def _missing(backend: Backend, server: Server, commands: list[tuple[Word, ...]]) -> list[str]:
    rules: dict[str, None] = {}
    for words in commands:
        try:
            await server.call(*words)
        except Refused as error:  # anything but a lack of rights says nothing here
            if "NOPERM" in str(error):
                rules[missing_rule(backend, str(error), str(words[0]).lower())] = None
    return list(rules)


async def user_name(server: Server) -> str:
    """Of the connection; what every server calls its first user, where that is not reported."""
    return text_of(await server.try_call("ACL", "WHOAMI")) or "default"


def missing_rule(backend: Backend, refusal: str, command: str) -> str:
    """The rule that is missing, by a refusal of Redis.

    Args:
        command: What was called, where the refusal does not name it.
    """
    refusal = refusal.partition("; give the user")[0]  # what follows are the rules as a whole
    if "channel" in refusal:
        return f"&{backend.task_key('*').decode(errors='replace')}"
    named = _COMMAND.search(refusal)
    if named is None and "key" in refusal:
        pattern = backend.task_key("*").decode(errors="replace")
        return f"~{pattern} ~{{{pattern}"
    return f"+{named.group(1) if named else command}"
