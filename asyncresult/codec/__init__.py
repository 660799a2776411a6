"""Records as bytes: :class:`Codec`, and types of one's own in them (:func:`register_type`)."""

from __future__ import annotations

from .codec import DEFAULT_MAX_RESULT_BYTES, LARGE_PAYLOAD_BYTES, Codec
from .convert import convert
from .exceptions import RemoteTraceback
from .json import register_type

__all__ = [
    "DEFAULT_MAX_RESULT_BYTES",
    "LARGE_PAYLOAD_BYTES",
    "Codec",
    "RemoteTraceback",
    "convert",
    "register_type",
]
