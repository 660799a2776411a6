"""What a server refuses, and how a connection ends, below :mod:`asyncresult.errors`.

The classes have the names and the order of redis-py's ``redis.exceptions``, but are not those: the first import of
anything of redis-py imports its clients, its cluster and its metrics, which takes longer than all else that a program
needs for its first result (benchmarks: first-get).
"""

from __future__ import annotations

__all__ = [
    "AskError",
    "AuthenticationError",
    "BulkLengthError",
    "BusyLoadingError",
    "ClusterDownError",
    "ConnectionError",
    "CrossSlotError",
    "InvalidResponse",
    "MasterDownError",
    "MovedError",
    "NoPermissionError",
    "NoReplicasError",
    "NoScriptError",
    "ReadOnlyError",
    "RedisError",
    "ResponseError",
    "TimeoutError",
    "TooLargeError",
    "TryAgainError",
]


class RedisError(Exception):
    """Base of all others."""


# -- connections ------------------------------------------------------------------------------------------


class ConnectionError(RedisError):
    """There is no connection, or none any more."""


class TimeoutError(RedisError):
    """No connection in time."""


class AuthenticationError(ConnectionError):
    """NOAUTH, WRONGPASS, DENIED: nobody is let in with these credentials."""


class BusyLoadingError(ConnectionError):
    """LOADING, BUSY: the server will answer, but not now."""


class InvalidResponse(RedisError):
    """The peer does not speak the Redis protocol."""


# -- error replies ----------------------------------------------------------------------------------------


class ResponseError(RedisError):
    """An error reply."""


class NoPermissionError(ResponseError):
    """NOPERM: the user may not do this."""


class NoScriptError(ResponseError):
    """NOSCRIPT: the server does not know the digest."""


class NoReplicasError(ResponseError):
    """NOREPLICAS: a primary with fewer replicas than min-replicas-to-write, as after a failover."""


class ReadOnlyError(ResponseError):
    """READONLY: a replica."""


class TryAgainError(ResponseError):
    """TRYAGAIN: the keys of a command are being moved."""


class TooLargeError(ResponseError):
    """TOOLARGE: a string was not taken in, which :mod:`.sieve` says and no server. Its text gives the sizes."""


class BulkLengthError(ResponseError):
    """ERR Protocol error: invalid bulk length: a value over the server's ``proto-max-bulk-len``. It then hangs up."""


class CrossSlotError(ResponseError):
    """CROSSSLOT: a node of a cluster has the keys of one command in several slots."""


class ClusterDownError(ResponseError):
    """CLUSTERDOWN: the cluster does not serve, or not this slot."""


class MasterDownError(ClusterDownError):
    """MASTERDOWN: a replica without its primary."""


class AskError(ResponseError):
    """ASK: this command goes to another node.

    Args:
        where: ``<slot> <host>:<port>``, of which the host may be missing.

    Raises:
        ValueError: It is not of that form.
    """

    def __init__(self, where: str) -> None:
        super().__init__(where)
        slot, node = where.split(" ")
        host, port = node.rsplit(":", 1)
        self.slot_id = int(slot)
        self.host, self.port = host, int(port)


class MovedError(AskError):
    """MOVED: the slot has a new owner."""
