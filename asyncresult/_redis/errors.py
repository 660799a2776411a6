"""What Redis refuses, in our words: the one place where error replies and lost connections become typed errors.

An error reply begins with a word in capitals that says its kind; the rest is for people (RESP specification, "Simple
errors": "The first upper-case word after the -, up to the first space or newline, represents the kind of error
returned. This word is called an error prefix."). :func:`error_reply` makes one of :mod:`.exceptions` of it; everything
above sees :mod:`asyncresult.errors` only.

What an error may quote: the server's own sentence about a command, never a value, never the words of a command that
may hold a password, and at most 200 characters of it.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from typing import Any

from ..errors import BackendError, BackendPermissionError, BackendUnavailable
from .exceptions import (
    AskError,
    AuthenticationError,
    BulkLengthError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    CrossSlotError,
    InvalidResponse,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoReplicasError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
    TooLargeError,
    TryAgainError,
)
from .wire import in_plain_words, refuses_the_login

__all__ = [
    "describe",
    "error_reply",
    "first_error",
    "is_refusal",
    "is_transient",
    "permission_error",
    "refuses_ours",
    "reply_error",
    "tls_error",
    "typed_error",
]

_CLASSES: dict[str, type[RedisError]] = {
    "ASK": AskError,
    "BUSY": BusyLoadingError,  # a script runs for too long
    "CLUSTERDOWN": ClusterDownError,
    "CROSSSLOT": CrossSlotError,
    "DENIED": AuthenticationError,  # protected mode: nobody is let in from another machine
    "LOADING": BusyLoadingError,
    "MASTERDOWN": MasterDownError,
    "MOVED": MovedError,
    "NOAUTH": AuthenticationError,
    "NOPERM": NoPermissionError,
    "NOREPLICAS": NoReplicasError,
    "NOSCRIPT": NoScriptError,
    "READONLY": ReadOnlyError,
    "TOOLARGE": TooLargeError,
    "TRYAGAIN": TryAgainError,
    "WRONGPASS": AuthenticationError,
}
#: A full server says so once, in place of the first reply, and hangs up.
_FULL = "ERR max number of clients"  # "… reached", or "… + cluster connections reached"
_TOO_LONG = "ERR Protocol error: invalid bulk length"
#: Before Redis 7, for a command that is refused inside a script: "ERR Error running script (call to f_…):
#: @user_script:12: @user_script: 12: -READONLY You can't write against a read only replica."
_IN_A_SCRIPT = "ERR Error running script"

#: The server cannot do it now, but will. MISCONF (no disk) and OOM are not here: they want a person.
_TRANSIENT = (
    ConnectionError,
    TimeoutError,
    InvalidResponse,
    OSError,
    ClusterDownError,
    MasterDownError,
    NoReplicasError,
    ReadOnlyError,
    TryAgainError,
)
_LOGIN = (AuthenticationError, NoPermissionError)
#: OpenSSL's names of the alerts about a client's certificate.
_ALERT = re.compile(r"\w+_ALERT_(?:CERTIFICATE_\w+|BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE|UNKNOWN_CA)")
#: MOVED, ASK and CROSSSLOT where no cluster was expected. MOVED itself says no more than an address.
_NODE_OF_A_CLUSTER = "this is a node of a cluster: use a redis+cluster:// URL"


def describe(error: BaseException) -> str:
    """An error in a few words; its class where it has none."""
    if isinstance(error, AskError | CrossSlotError):
        return _NODE_OF_A_CLUSTER
    return in_plain_words(str(error)) or type(error).__name__


def error_reply(text: str) -> RedisError:
    """The error for an error reply; what hiredis calls for each."""
    if text.startswith(_IN_A_SCRIPT):
        _, _, inner = text.rpartition(": -")
        text = inner or text
    code, _, rest = text.partition(" ")
    text = in_plain_words(text)
    if code in ("MOVED", "ASK"):
        try:
            return _CLASSES[code](rest)
        except (ValueError, IndexError):
            return ResponseError(text)
    if text.startswith(_FULL):
        return ConnectionError(text)
    if text.startswith(_TOO_LONG):
        return BulkLengthError(text)
    if refuses_the_login(text):
        return AuthenticationError(text)
    return _CLASSES.get(code, ResponseError)(text)


def is_refusal(error: BaseException | None) -> bool:
    """Whether nobody is let in with what we have: credentials, or a certificate that does not convince.

    At the first connection that is a mistake in the settings. After a healthy one it is an outage: a password that is
    being rotated, a certificate that is being renewed.
    """
    return (
        isinstance(error, (*_LOGIN, BackendPermissionError)) or _certificate(error) is not None or refuses_ours(error)
    )


def is_transient(reply: Any) -> bool:
    """Whether another attempt may well not meet this error again."""
    return isinstance(reply, _TRANSIENT) and not is_refusal(reply)


def typed_error(error: Exception, address: str) -> BackendError:
    """Our error for one that kept a whole round trip from being answered."""
    if isinstance(error, BackendError):
        return error
    certificate = _certificate(error)
    if certificate is not None:
        return tls_error(certificate, address)
    if refuses_ours(error):
        return BackendUnavailable(
            f"{address}: TLS: the server refuses our certificate, or requires one: {describe(error)};"
            " see ssl_certfile= and ssl_keyfile="
        )
    if isinstance(error, _LOGIN):
        return permission_error(str(error), address)
    if isinstance(error, _TRANSIENT):
        return BackendUnavailable(f"{address}: {describe(error)}")
    if isinstance(error, AskError | CrossSlotError):
        return BackendError(f"{address}: {_NODE_OF_A_CLUSTER}")
    return BackendError(f"{address}: {type(error).__name__}: {describe(error)}")


def reply_error(reply: Any, address: object) -> BackendError | None:
    """Our error for a reply that is one; None for any other reply."""
    if not isinstance(reply, Exception):
        return None
    return typed_error(reply, str(address))


def first_error(replies: Sequence[Any], address: object) -> BackendError | None:
    """The first error among ``replies``, as ours. Its text is only made if there is one."""
    for reply in replies:
        if isinstance(reply, Exception):
            return reply_error(reply, address)
    return None


def permission_error(reason: str, address: str) -> BackendPermissionError:
    """The error for a refusal, with the ACL rule that would mend it."""
    if reason.startswith("DENIED"):
        advice = "let the server's configuration set a password, or protected-mode no"
    elif not reason.startswith("NOPERM"):
        advice = "check the user and password of the backend's URL"
    else:
        if "channel" in reason:
            rules = "the channels, '&celery-task-meta-* &{celery-task-meta-* &asyncresult-workers'"
        elif "key" in reason:
            rules = "the keys, '~celery-task-meta-* ~{celery-task-meta-* ~celery-taskset-meta-*'"
        else:
            rules = (
                "the commands, '+subscribe +unsubscribe +ping +mget +strlen +del', and to store results"
                " '+get +set +publish +eval +evalsha +exists +xadd +xrange +expire'"
            )
        advice = (
            f"give the user {rules}; with the key prefix in front of the patterns, where one is set;"
            " see docs/reference/acl.md"
        )
    return BackendPermissionError(f"{address}: Redis refuses: {in_plain_words(reason).rstrip('.')}; {advice}")


def tls_error(error: ssl.SSLCertVerificationError, address: str) -> BackendUnavailable:
    """The error for a certificate that does not convince."""
    reason = getattr(error, "verify_message", "") or str(error)
    return BackendUnavailable(
        f"{address}: TLS: {reason}; name the authority with ssl_ca_certs=, or see ssl_check_hostname="
    )


def _certificate(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """The refused certificate behind ``error``, if that is why."""
    cause = error.__cause__ if isinstance(error, ConnectionError) else error
    return cause if isinstance(cause, ssl.SSLCertVerificationError) else None


def refuses_ours(error: BaseException | None) -> bool:
    """Whether a server that requires a certificate has ended the connection for want of one that it accepts.

    With TLS 1.3 it says so after the handshake (RFC 8446, section 4.4.2.4: certificate_required; section 6.2).
    """
    cause = error.__cause__ if isinstance(error, ConnectionError) else error
    return isinstance(cause, ssl.SSLError) and _ALERT.fullmatch(cause.reason or "") is not None
