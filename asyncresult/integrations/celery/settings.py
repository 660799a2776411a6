"""Settings of a Celery app that any kind of result backend follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...codec.serializers import known_serializer

__all__ = ["UnknownBackendURL", "accepted", "known_serializers", "record_settings"]


class UnknownBackendURL(ValueError):
    """A ``result_backend`` with ``asyncresult`` in front that says nothing, or nothing that is known, behind it."""


def record_settings(conf: Any, parsed: Any, transport: Mapping[str, Any]) -> dict[str, Any]:
    """What the app's settings say about the records themselves, as options of a backend.

    Args:
        parsed: A result backend of Celery's, which has read them.
        transport: Its ``result_backend_transport_options``.

    Raises:
        ValueError: A serializer that is not read here; the setting is named.
    """
    return {
        "serializer": known_serializers("result_serializer", [conf.result_serializer])[0],
        "accept": accepted(conf),
        "compression": conf.get("result_compression"),  # new in 5.7
        "expires": parsed.expires,
        "failure_expires": None if conf.get("result_failure_expires") is None else parsed.failure_expires,
        "key_prefix": transport.get("global_keyprefix", ""),
        "result_extended": bool(conf.result_extended),
    }


def accepted(conf: Any) -> list[str]:
    """The serializers that are read. Raises: as :func:`record_settings`."""
    if conf.result_accept_content is not None:
        return known_serializers("result_accept_content", conf.result_accept_content)
    # accept_content is about messages first: what is not for us there is no mistake.
    readable: list[str] = []
    for name in conf.accept_content:
        try:
            readable.append(known_serializer(name))
        except ValueError:
            pass
    return readable


def known_serializers(setting: str, names: Iterable[str]) -> list[str]:
    """Serializers by their short names; an error says which setting names them."""
    try:
        return [known_serializer(name) for name in names]
    except ValueError as error:
        raise ValueError(f"its setting {setting}: {error}") from None
