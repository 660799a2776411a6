"""The serializers: JSON, MessagePack and YAML. Source: kombu/serialization.py (5.7)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import msgspec

from .json import Bytes, json_codec

__all__ = ["known_serializer", "serializer_functions"]

_CONTENT_TYPES = {"application/json": "json", "application/x-msgpack": "msgpack", "application/x-yaml": "yaml"}
_MSGPACK_LEAVES = (str, int, float, bytes, type(None))


def known_serializer(name: Any) -> str:
    """The short name of a serializer, given that or its content type. ValueError: not one of ours."""
    if not isinstance(name, str):
        raise ValueError(f"a serializer is given by its name, not {name!r:.60}")
    short: str = _CONTENT_TYPES.get(name, name)
    if short in ("pickle", "application/x-python-serialize"):
        raise ValueError(
            "asyncresult never loads pickles, because reading one runs whatever its writer wanted: "
            "set result_serializer='json' in the workers"
        )
    if short not in _CONTENT_TYPES.values():
        raise ValueError(f"unknown serializer {name!r}: it is one of 'json', 'msgpack' and 'yaml'")
    return short


def serializer_functions(name: str, limit: int) -> tuple[Callable[[Any], bytes], Callable[[Bytes], Any]]:
    """The functions that write and read; they may raise anything. ValueError: a package is missing."""
    if name == "json":
        encode, decode = json_codec()
        return lambda value: encode(value).encode(), lambda data: decode(data.decode())
    if name == "msgpack":
        return _msgpack_encode, msgspec.msgpack.decode
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        raise ValueError("the serializer 'yaml' needs PyYAML: pip install 'asyncresult[yaml]'") from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    def yaml_decode(data: Bytes) -> Any:
        try:
            document = yaml.load(data.decode(), Loader=loader)
        except yaml.YAMLError as error:  # its text may quote the document
            mark = getattr(error, "problem_mark", None)
            place = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "an unknown place"
            raise ValueError(f"{type(error).__name__} at {place}") from None
        if _weight(document, {}) > limit:
            raise ValueError("YAML aliases expand beyond max_result_bytes")
        return document

    return lambda value: yaml.safe_dump(value).encode(), yaml_decode


def _msgpack_encode(value: Any) -> bytes:
    # msgspec would write a datetime or a Decimal as plain text, which no reader could distinguish from text again.
    # The order is free: a refusal is looked into by the caller.
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            parts += part
            parts += part.values()
        elif isinstance(part, (list, tuple)):
            parts += part
        elif not isinstance(part, _MSGPACK_LEAVES):
            raise TypeError(f"Object of type {type(part).__name__} is not MessagePack serializable")
    return msgspec.msgpack.encode(value)


def _weight(value: Any, known: dict[int, float]) -> float:
    """How many values a walk meets: references can make a small YAML document huge, or endless."""
    if not isinstance(value, (list, tuple, dict, set)):
        return 1
    if id(value) not in known:
        known[id(value)] = float("inf")  # and that it stays for what contains itself
        known[id(value)] = 1 + sum(_weight(v, known) for v in (value.values() if isinstance(value, dict) else value))
    return known[id(value)]
