"""Celery's records: bytes to :class:`TaskMeta` and back, and the exceptions that they hold.

Theory of operation
===================

A machine: no event loop, no clock, no I/O; the same bytes give the same record in every process. What the bytes
say is the business of ``serializers``, what a stored exception may become that of ``exceptions``.

**Reading** has a fast way and a slow one. The fast way is one call of msgspec's decoder, from the bytes straight
into the record. It must refuse or agree, never differ. It refuses what is not strict JSON and every field of an
unexpected name or type; what it would read differently, tags, is kept from it. Whatever does not come out of it as
the complete record of the right task goes the slow way, which alone decides what is an error, and words it.

**What is trusted.** The key decides whose record it is, never the bytes: a record that names another task is refused,
one that names none is taken. An empty record is that of a pending task, as in Celery.

**Nothing but the documented errors** leaves this module, whatever the bytes are. They carry an excerpt of the
bytes and the text of what went wrong, but not the original error, which would keep the whole document alive.

Source: celery/backends/base.py and celery/backends/redis.py (5.7).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from .._checks import check_count
from ..errors import ResultDecodeError, ResultEncodeError, ResultTooLarge
from ..meta import TaskMeta
from ..states import PENDING
from . import pieces
from .compression import COMPRESSED, compressed_record, compressor, decompressed, load_compressions
from .exceptions import Exceptions, encode_exception, error_text, printable, safe_repr
from .fast import decode_many, fast_decode
from .json import SLOW_NUMBERS_BYTES, Bytes, escapes_ascii, holds_slow_numbers, json_texts, suits_msgspec
from .serializers import known_serializer, serializer_functions
from .unstorable import Search

__all__ = ["DEFAULT_MAX_RESULT_BYTES", "LARGE_PAYLOAD_BYTES", "Codec"]

DEFAULT_MAX_RESULT_BYTES = 64 * 1024 * 1024
#: Records from this size are decoded on a worker thread, in pieces. So much JSON is 1 to 2 ms of CPU, 10 at the worst.
LARGE_PAYLOAD_BYTES = 256 * 1024
#: YAML takes a hundred times as long: records above this size go to the thread.
YAML_ON_LOOP_BYTES = 1024
#: What a compressed record may become whatever its own size, and above that, how many times its own size. JSON shrinks
#: to a fifth or a twentieth. What shrinks to a thousandth may be empty lists, which take 20 times their text.
RATIO_BYTES = 4 * 1024 * 1024
MAX_RATIO = 200

_MISSING: Any = object()
_fast_decode = fast_decode

_TYPED_FIELDS = ("traceback", "group_id", "parent_id", "name", "worker", "queue", "retries")
#: In Celery's order. They come between the five fields that are always there and task_id.
_OPTIONAL_FIELDS = (
    *("group_id", "parent_id", "name", "args", "kwargs", "worker", "retries", "queue"),
    *("heartbeat", "traceparent"),  # ours
)
_FIELDS = {"status", "result", "traceback", "children", "date_done", *_OPTIONAL_FIELDS, "task_id"}

_REFUSED = {
    "pickle": (
        "it is a pickle, which is never loaded: set result_serializer='json' in the workers (those that store in a"
        " database write pickles whatever it says until Celery 5.7: upgrade them)"
    ),
    "json": "it looks like JSON: accept=('json',) would read it",
    "msgpack": "it looks like MessagePack: accept=('json', 'msgpack') would read it",
    "yaml": "it looks like YAML: accept=('json', 'yaml') would read it",
}
_looks_like_yaml = re.compile(rb"[A-Za-z_][\w.-]*:(?:\s|\Z)").match


class Codec:
    """Reads and writes the records of one backend. Immutable, and safe to use from any thread.

    Args:
        serializer: What to write: ``"json"``, ``"msgpack"`` or ``"yaml"`` (or a content type).
        accept: What to read; `serializer` is always among it. A record does not say what it is written in.
        compression: What to write: None, or one of ``gzip`` ``zlib`` ``bzip2`` ``bzip`` ``lzma`` ``xz`` ``brotli``
            ``zstd`` ``zstandard``. All of these are read, whatever is set here.
        max_result_bytes: The size of a record, stored or decompressed, above which it is refused; kept as ``limit``.
        exceptions: Classes that are made by calling them with the recorded arguments.

    Raises:
        ValueError: A name is unknown, is ``"pickle"``, or needs a package that is not installed; the size is not
            positive; or a class is not an Exception that a coroutine can raise.
    """

    __slots__ = ("_compression", "_dumps", "_exceptions", "_fast_limit", "_loads", "_serializer", "_texts", "limit")

    def __init__(
        self,
        *,
        serializer: str = "json",
        accept: Iterable[str] = ("json",),
        compression: str | None = None,
        max_result_bytes: int = DEFAULT_MAX_RESULT_BYTES,
        exceptions: Iterable[type[Exception]] = (),
    ) -> None:
        check_count("max_result_bytes", max_result_bytes)
        load_compressions()
        self.limit: int = max_result_bytes
        self._serializer = known_serializer(serializer)
        names = {self._serializer, *map(known_serializer, [accept] if isinstance(accept, str) else accept)}
        pairs = {name: serializer_functions(name, max_result_bytes) for name in names}
        self._dumps = pairs[self._serializer][0]
        self._loads = {name: pair[1] for name, pair in pairs.items()}
        self._texts = json_texts() if self._serializer == "json" else None
        self._fast_limit = min(max_result_bytes, LARGE_PAYLOAD_BYTES - 1) if "json" in names else -1
        self._compression = compressor(compression) if compression else None
        self._exceptions = Exceptions(exceptions)

    # -- reading

    def decode(self, task_id: str, payload: Bytes) -> TaskMeta:
        """Read the record of a task, whatever its size: a large one in pieces, with pauses for other threads.

        Args:
            task_id: The task whose key or channel held it.
            payload: What was there. Empty means a pending task.

        Raises:
            ResultTooLarge: It is bigger than ``max_result_bytes``, as it is or decompressed, or decompresses to
                far more than its size.
            ResultDecodeError: It cannot be read, or is the record of another task.
        """
        meta = self.decode_small(task_id, payload)
        return self.decode_large(task_id, payload) if meta is None else meta

    def decode_small(self, task_id: str, payload: Bytes) -> TaskMeta | None:
        """Read the record of a task if an event loop has the time for it.

        Returns:
            None for a record that is large, or becomes large, or takes long for its size: it is for
            :meth:`decode_large`, on a thread.

        Raises:
            ResultDecodeError, ResultTooLarge: As :meth:`decode`.
        """
        # suits_msgspec(), written out: its call would be a tenth of the whole (benchmarks: join-stored).
        if (
            len(payload) <= self._fast_limit
            and payload.rfind(b"__type__") < 0  # from the right it takes a third of the time (benchmarks: join)
            and (payload.find(b"\\") < 0 or not escapes_ascii(payload))
            and (len(payload) < SLOW_NUMBERS_BYTES or not holds_slow_numbers(payload))
        ):
            try:
                meta = _fast_decode(payload)
            except (ValueError, RecursionError):
                pass
            else:
                # `_extra` is a field of the Struct and so has a name in JSON, too; nobody may use it.
                if meta.task_id == task_id and meta._extra is None:
                    return meta
        if len(payload) >= LARGE_PAYLOAD_BYTES:
            return None
        plain = self._plain(task_id, payload, LARGE_PAYLOAD_BYTES)
        if plain is None or (len(plain) > YAML_ON_LOOP_BYTES and self._kind(plain) == "yaml"):
            return None
        return self._whole(task_id, plain)

    def decode_many(self, task_ids: Sequence[str], payloads: Sequence[bytes | None]) -> list[TaskMeta] | None:
        """Read ordinary records at once; None if one is missing, large, or none: each is for :meth:`decode_small`."""
        return decode_many(self._fast_limit, task_ids, payloads)

    def decode_large(self, task_id: str, payload: Bytes) -> TaskMeta:
        """Read the record of a task, with pauses for other threads; call it on a worker thread.

        Only JSON is read in pieces, and not if it is nested a hundred levels deep or holds lone surrogates in a large
        text. It may take longer, up to three times. What cannot be cut is listed in docs/explanation/reliability.md.

        Raises:
            ResultDecodeError, ResultTooLarge: As :meth:`decode`, perhaps in other words.
        """
        plain = self.plain(task_id, payload)
        document = self._in_pieces(task_id, plain)
        return self._whole(task_id, plain) if document is None else self._record(task_id, document, plain)

    def _in_pieces(self, id: str, plain: Bytes) -> Any:
        """A large JSON document, read with pauses for other threads; None for what is to be read in one go."""
        if plain[:1] != b"{" or "json" not in self._loads or len(plain) <= pieces.PIECE_BYTES:
            return None
        try:
            return pieces.decode_in_pieces(plain)
        except (pieces.NotInPieces, RecursionError):
            return None
        except Exception as error:
            problem = error_text(error)
        # As in _document: out of the except block.
        raise _unreadable(id, plain, f"{problem} (read as json)")

    def is_small(self, payload: Bytes) -> bool:
        """Whether an event loop has the time for a document that is no record, whatever it is."""
        if payload.startswith(COMPRESSED):
            return False
        return len(payload) < (LARGE_PAYLOAD_BYTES if self._kind(payload) == "json" else YAML_ON_LOOP_BYTES)

    def decode_group(self, group_id: str, payload: Bytes) -> Any:
        """Read a saved group; a large one with pauses for other threads, as :meth:`decode_large` does.

        Returns:
            Its ``as_tuple`` form, made of lists; None for an empty payload.

        Raises:
            ResultDecodeError, ResultTooLarge: As :meth:`decode`, with the group's id as their ``task_id``.
        """
        plain = self.plain(group_id, payload)
        document = self._in_pieces(group_id, plain) if plain else {"result": None}
        if document is None:
            document = self._document(group_id, plain)
        if not isinstance(document, dict) or "result" not in document:
            raise _unreadable(group_id, plain, "it is not a saved group, which is a mapping with a 'result'")
        return document["result"]

    def decode_value(self, task_id: str, payload: Bytes) -> Any:
        """Read a value that was written by itself, in the serializer that is written: so databases keep results.

        Raises:
            ResultDecodeError, ResultTooLarge: As :meth:`decode`.
        """
        plain = self.plain(task_id, payload)
        try:
            return self._loads[self._serializer](plain)
        except Exception as error:
            problem = error_text(error)
        raise _unreadable(task_id, plain, f"{problem} (read as {self._serializer})")

    def plain(self, task_id: str, payload: Bytes) -> Bytes:
        """What was written, decompressed if it is marked as compressed.

        Raises:
            ResultDecodeError, ResultTooLarge: As :meth:`decode`.
        """
        plain = self._plain(task_id, payload)
        assert plain is not None  # it is, without a limit for the loop
        return plain

    def _plain(self, task_id: str, payload: Bytes, most: int | None = None) -> Bytes | None:
        """The payload, decompressed if it is marked as compressed; None if that makes it larger than `most`."""
        size = len(payload)
        if size > self.limit:
            message = f"the record of task {task_id!r} has {size} bytes, more than max_result_bytes={self.limit}"
            raise ResultTooLarge(message, task_id=task_id, raw=bytes(payload[:256]))
        if not payload.startswith(COMPRESSED):
            return payload
        name, _, stream = payload[len(COMPRESSED) :].partition(b"\0")
        limit = min(self.limit, max(MAX_RATIO * size, RATIO_BYTES))
        plain = bytearray()
        try:
            for chunk in decompressed(name.decode(), stream):
                plain += chunk
                if len(plain) > limit or (most is not None and len(plain) > most):
                    break
        except Exception as error:
            problem = f"it cannot be decompressed: {error_text(error)}"
        else:
            if len(plain) <= limit:
                return plain if most is None or len(plain) <= most else None
            bound = f"max_result_bytes={limit}" if limit == self.limit else f"{MAX_RATIO} times that"
            raise ResultTooLarge(
                f"the record of task {task_id!r} has {size} bytes and decompresses to at least {len(plain)}, "
                f"more than {bound}",
                task_id=task_id,
                raw=bytes(payload[:256]),
            )
        raise _unreadable(task_id, payload, problem)

    def _whole(self, task_id: str, plain: Bytes) -> TaskMeta:
        """The record in a text, in one go."""
        if plain[:1] == b"{" and "json" in self._loads and suits_msgspec(plain):
            try:
                meta = _fast_decode(plain)
            except (ValueError, RecursionError):
                pass
            else:
                if meta.task_id == task_id and meta._extra is None:
                    return meta
        if not plain:
            return TaskMeta(task_id=task_id, status=PENDING)
        return self._record(task_id, self._document(task_id, plain), plain)

    def _kind(self, plain: Bytes) -> str:
        """The serializer to which the beginning of a text points."""
        start = bytes(plain[:64]).lstrip(b" \t\r\n")
        first = start[0] if start else 0
        if first == 0x80 or start.startswith((b"(d", b"}q")):  # protocols 2 and up, 0, 1
            return "pickle"
        if 0x81 <= first <= 0x8F or first in (0xDE, 0xDF):
            return "msgpack"
        if first == ord("{"):
            return "yaml" if "yaml" in self._loads and "json" not in self._loads else "json"
        return "yaml" if "yaml" in self._loads or _looks_like_yaml(start) else "json"

    def _document(self, task_id: str, plain: Bytes) -> Any:
        """What the bytes say."""
        kind = self._kind(plain)
        if kind not in self._loads:
            raise _unreadable(task_id, plain, _REFUSED[kind])
        try:
            return self._loads[kind](plain)
        except RecursionError:
            problem = "it is nested too deeply"
        except Exception as error:
            problem = error_text(error)
        # Out of the except block, or else the error becomes its context, with the document in it.
        raise _unreadable(task_id, plain, f"{problem} (read as {kind})")

    def _record(self, task_id: str, document: Any, plain: Bytes) -> TaskMeta:
        """The record in a document, with the same checks as the fast way makes."""
        if not isinstance(document, dict):
            raise _unreadable(task_id, plain, f"it is of type {type(document).__name__}, not a mapping")
        fields: dict[str, Any] = document
        status = fields.get("status", _MISSING)
        if not isinstance(status, str | None):
            raise _unreadable(task_id, plain, "its field 'status' is missing or not a text")
        written_id = fields.get("task_id")
        if isinstance(written_id, uuid.UUID):
            written_id = str(written_id)
        # Nothing but texts: what comparing a value of a registered type does, or its truth, is anybody's.
        if not isinstance(written_id, str | None) or (written_id and written_id != task_id):
            raise _unreadable(task_id, plain, f"it is the record of another task, {printable(written_id)}")
        extra = {name: value for name, value in fields.items() if name not in _FIELDS}
        if not all(isinstance(name, str) for name in extra):
            raise _unreadable(task_id, plain, "the name of a field is not a text")
        if extra.get("(extra)", "") is None:
            del extra["(extra)"]  # the fast way cannot distinguish this from nothing
        optional = {name: fields.get(name) for name in ("traceback", *_OPTIONAL_FIELDS)}
        for name in _TYPED_FIELDS:
            optional[name], kept = _typed(name, optional[name])
            if kept is not None:
                extra[name] = kept
        return TaskMeta(
            task_id=task_id,
            status=status or "",  # null: Celery's update_state() without a state
            result=fields.get("result"),
            _children=tuple(children) if isinstance(children := fields.get("children"), list) else children,
            _date_done=fields.get("date_done"),
            _extra=extra or None,
            **optional,
        )

    def exception(self, meta: TaskMeta) -> Exception | None:
        """Make the exception that a record holds: fresh at each call, to be raised by the caller.

        It has the worker's traceback as its ``__cause__`` and a note that names task and worker. Nothing is
        raised: an invalid record gives :class:`TaskFailed`, too.

        Returns:
            :class:`TaskRevoked` for a task that was revoked. Else an instance of the recorded class, if it is listed
            in ``exceptions`` or imported already (then its constructor does not run); else :class:`TaskFailed`.
            None for a state that has no exception, and for a retry that was not caused by one.
        """
        return self._exceptions.of(meta)

    # -- writing

    def encode(self, meta: TaskMeta) -> bytes:
        """Write a record, byte for byte as Celery does.

        Raises:
            ResultEncodeError: A value cannot be stored; its ``path`` says which.
        """
        done = meta._date_done
        document: dict[str, Any] = {
            "status": meta.status,
            "result": meta.result,
            "traceback": meta.traceback,
            "children": meta.children,
            "date_done": done.isoformat() if isinstance(done, datetime) else done,
        }
        for name in _OPTIONAL_FIELDS:
            value = getattr(meta, name)
            if value is not None:
                document[name] = value
        for name, value in meta.extra.items():
            if document.get(name) is None:
                document[name] = value
        document["task_id"] = meta.task_id
        return self._encode(document)

    def encode_plain(self, task_id: str, status: str, result: Any, date_done: str | None) -> bytes:
        """:meth:`encode` for a record that has only these, without a mapping of them (benchmarks: store-many-1000).

        Raises:
            ResultEncodeError: As :meth:`encode`.
        """
        if self._texts is not None and self._compression is None:
            encode, quoted = self._texts
            done = "null" if date_done is None else quoted(date_done)
            try:
                return (
                    f'{{"status": {quoted(status)}, "result": {encode(result)}, "traceback": null, "children": null,'
                    f' "date_done": {done}, "task_id": {quoted(task_id)}}}'
                ).encode()
            except Exception:
                pass  # encode() says what is wrong
        return self.encode(TaskMeta(task_id=task_id, status=status, result=result, _date_done=date_done))

    def encode_group(self, tree: Any) -> bytes:
        """Write a group, given in its ``as_tuple`` form.

        Raises:
            ResultEncodeError: As :meth:`encode`.
        """
        return self._encode({"result": tree})

    def encode_value(self, value: Any) -> bytes:
        """Write a value by itself, not compressed; :meth:`decode_value` reads it. Raises what the serializer does."""
        return self._dumps(value)

    @property
    def serializer(self) -> str:
        """What is written: ``"json"``, ``"msgpack"`` or ``"yaml"``."""
        return self._serializer

    def encode_exception(self, exc: BaseException) -> dict[str, Any]:
        """Encode an exception as the ``result`` of a record. Nothing is raised.

        Arguments that cannot be stored become their ``repr``. A failure that was read from a record itself is
        written as what it was there.

        Returns:
            ``exc_type``, ``exc_message`` (the list of arguments) and ``exc_module``.
        """
        return encode_exception(exc, self._storable)

    def _storable(self, value: Any) -> Any:
        try:
            self._dumps(value)
            return _lists(value)
        except Exception:
            return safe_repr(value)

    def _encode(self, document: dict[str, Any]) -> bytes:
        try:
            data = self._dumps(document)
        except Exception as error:
            path, problem = Search(self._dumps, attributes=self._serializer == "json").culprit(document)
            raise ResultEncodeError(
                f"{path or 'the record'} cannot be stored as {self._serializer}: {problem or error_text(error)}",
                path=path,
            ) from error
        if self._compression is None:
            return data
        content_type, module = self._compression
        return compressed_record(content_type, module.compress(data))


def _unreadable(task_id: str, raw: Bytes, problem: str) -> ResultDecodeError:
    message = f"the record of task {task_id!r} cannot be read: {problem}"
    return ResultDecodeError(message, task_id=task_id, raw=bytes(raw[:256]))


def _typed(name: str, value: Any) -> tuple[Any, Any]:
    """The value of an optional field in its type, or None; and what it was, if that cannot be had in this type.

    Other languages write numbers here, and stamps of Celery may have the names of fields. The result is worth more than
    any of these fields.
    """
    if value is None:
        return None, None
    if name == "retries":
        return (value, None) if isinstance(value, int) and not isinstance(value, bool) else (None, value)
    if isinstance(value, uuid.UUID):
        return str(value), None
    if name == "traceback" and isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(line.removesuffix("\n") for line in value), None
    return (value, None) if isinstance(value, str) else (None, value)


def _lists(value: Any) -> Any:
    """A storable value with lists for its tuples, which is how it will be read."""
    if isinstance(value, (list, tuple)):
        return [_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return value
