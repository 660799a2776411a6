"""The serializers: JSON, MessagePack and YAML. Source: kombu/serialization.py (5.7)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import msgspec

from .json import Bytes, json_codec

__all__ = ["known_serializer", "serializer_functions"]

_CONTENT_TYPES = {"application/json": "json", "application/x-msgpack": "msgpack", "application/x-yaml": "yaml"}
#: Values of a YAML document, aliases followed: so many, or so many for each byte of it.
_FEW_VALUES, _MOST_VALUES_A_BYTE = 100_000, 200
#: Of a whole number in YAML: str() of more is a ValueError, also where they are hexadecimal ones.
_MOST_DIGITS = 3500
_MOST_DIGITS_OF_KEY = 15
_INT = "tag:yaml.org,2002:int"
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
    loader = _bounded(getattr(yaml, "CSafeLoader", yaml.SafeLoader))

    def yaml_decode(data: Bytes) -> Any:
        try:
            document = yaml.load(data.decode(), Loader=loader)
        except yaml.YAMLError as error:  # its text may quote the document
            mark = getattr(error, "problem_mark", None)
            place = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "an unknown place"
            raise ValueError(f"{type(error).__name__} at {place}") from None
        if _weight(document, {}) > min(limit, max(_FEW_VALUES, _MOST_VALUES_A_BYTE * len(data))):
            raise ValueError("its YAML aliases multiply it without measure")
        return document

    return lambda value: yaml.safe_dump(value).encode(), yaml_decode


def _bounded(loader: Any) -> Any:
    """A loader of PyYAML's that takes no longer for numbers than their text is long."""

    class Loader(loader):  # type: ignore[misc]  # one of two
        def construct_yaml_int(self, node: Any) -> int:
            if len(node.value) > _MOST_DIGITS:  # 1:1:1:… is a number, too, to the base of 60
                raise ValueError(f"a whole number has more than {_MOST_DIGITS} digits")
            number: int = super().construct_yaml_int(node)
            return number

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            # Numbers of 64 bits and more may have one hash all together: a mapping of them takes hours.
            if any(key.tag == _INT and len(key.value) > _MOST_DIGITS_OF_KEY for key, _ in node.value):
                raise ValueError(f"a key is a number of more than {_MOST_DIGITS_OF_KEY} digits")
            return super().construct_mapping(node, deep=deep)

    Loader.add_constructor(_INT, Loader.construct_yaml_int)
    return Loader


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
