"""Compressed records, and the limits of their size."""

from __future__ import annotations

import bz2
import lzma
import pickle
import tracemalloc
import zlib

import pytest

from asyncresult.codec import (
    Codec,
    compression,
)
from asyncresult.codec import codec as compression_limits
from asyncresult.errors import (
    ResultDecodeError,
    ResultTooLarge,
)
from asyncresult.meta import TaskMeta
from asyncresult.states import SUCCESS
from tests.codec.records import (
    ID,
    PLAIN,
    compressed,
    record,
)


def test_too_large_names_both_sizes_and_the_option() -> None:
    reader = Codec(max_result_bytes=100)
    payload = record(result="x" * 100)
    for read in (reader.decode, reader.decode_large, reader.decode_group):
        with pytest.raises(ResultTooLarge, match=rf"{ID}.* has {len(payload)} bytes.*max_result_bytes=100$"):
            read(ID, payload)
    fits = b'{"status": "SUCCESS", "task_id": "i"}'
    assert Codec(max_result_bytes=len(fits)).decode("i", fits).successful
    with pytest.raises(ResultTooLarge):
        Codec(max_result_bytes=len(fits) - 1).decode("i", fits)


@pytest.mark.parametrize("name", ["gzip", "zlib", "bzip2", "bzip", "lzma", "xz", "brotli", "zstd", "zstandard"])
def test_compression_round_trip(name: str) -> None:
    try:
        writer = Codec(compression=name)
    except ValueError as missing:
        pytest.skip(str(missing))
    meta = TaskMeta(task_id=ID, status=SUCCESS, result=["é" * 10, {"n": [1, 2, 3]}] * 6000)
    payload = writer.encode(meta)
    assert payload.startswith(b"\0celery-compressed\0application/")
    assert PLAIN.decode(ID, payload) == PLAIN.decode_large(ID, payload) == meta
    tree = [["g", None], []]
    assert PLAIN.decode_group("g", writer.encode_group(tree)) == tree
    kombu = pytest.importorskip("kombu.compression")
    base = pytest.importorskip("celery.backends.base")
    if hasattr(base, "decompress_payload"):
        assert base.decompress_payload(payload) == PLAIN.encode(meta)
    body, content_type = kombu.compress(PLAIN.encode(meta), name)
    assert PLAIN.decode(ID, compressed(content_type, body)) == meta
    for broken in (payload[:-1], payload[:-5], payload[:60], payload[:40], payload[:45] + b"xx" + payload[47:]):
        with pytest.raises(ResultDecodeError, match="cannot be read"):
            PLAIN.decode(ID, broken)


@pytest.mark.parametrize("size", [0, compression.CHUNK_BYTES, compression.CHUNK_BYTES - 1, 2 * compression.CHUNK_BYTES])
@pytest.mark.parametrize("name", ["gzip", "bzip2", "lzma", "brotli", "zstd"])
def test_content_that_ends_with_a_chunk(name: str, size: int) -> None:
    try:
        content_type, module = compression.compressor(name)
    except ValueError as missing:
        pytest.skip(str(missing))
    text = b" " * size
    assert b"".join(compression.decompressed(content_type, module.compress(text))) == text


@pytest.mark.parametrize("name", ["gzip", "bzip2", "lzma", "brotli", "zstd"])
def test_a_bomb_does_not_go_off(name: str) -> None:
    """It is given up at the limit, with hardly more memory than that."""
    try:
        content_type, module = compression.compressor(name)
    except ValueError as missing:
        pytest.skip(str(missing))
    limit = 4 * 1024 * 1024
    bomb = compressed(content_type, module.compress(b"[" * (8 * limit)))
    reader = Codec(max_result_bytes=limit)
    tracemalloc.start()
    try:
        for read in (reader.decode, reader.decode_large, reader.decode_group):
            with pytest.raises(
                ResultTooLarge, match=rf"has {len(bomb)} bytes .* at least \d{{7}}.*max_result_bytes={limit}"
            ):
                read(ID, bomb)
        dictionary = 12 * 1024 * 1024 if name == "lzma" else 0
        assert tracemalloc.get_traced_memory()[1] < 2 * limit + dictionary
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (compressed("application/x-nope", b"abc"), "unknown compression 'application/x-nope'"),
        (compressed("application/x-gzip", b"abc"), "incorrect header"),
        (compressed("application/x-gzip", b""), "cut short"),
        (compressed("application/x-gzip", zlib.compress(b"{}" * 99)[:-6]), "cut short"),
        (compressed("application/x-bz2", bz2.compress(b"{}" * 99)[:-6]), "cut short"),
        (compressed("application/x-lzma", lzma.compress(b"{}" * 99)[:-6]), "cut short"),
        (compressed("application/x-gzip", zlib.compress(pickle.dumps({}))), "pickle"),
        (compressed("application/x-gzip", zlib.compress(b"[1]")), "of type list"),
        (b"\0celery-compressed\0\xff\0", "UnicodeDecodeError"),
        (b"\0celery-compressed\0", "unknown compression ''"),
        (b"\0something", "Expecting value"),
    ],
)
def test_broken_compression(payload: bytes, words: str) -> None:
    for read in (PLAIN.decode, PLAIN.decode_large):
        with pytest.raises(ResultDecodeError, match=words):
            read(ID, payload)


def test_a_stream_does_not_get_all_the_memory_it_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = compressed("application/x-lzma", lzma.compress(record(), preset=9))
    assert PLAIN.decode(ID, payload).successful
    monkeypatch.setattr(compression, "_LZMA_MEMORY", 32 * 1024 * 1024)
    with pytest.raises(ResultDecodeError, match="Memory usage limit"):
        PLAIN.decode(ID, payload)


def test_twice_compressed_is_not_unwrapped_twice() -> None:
    once = Codec(compression="gzip").encode(TaskMeta(task_id=ID, status=SUCCESS))
    with pytest.raises(ResultDecodeError):
        PLAIN.decode(ID, compressed("application/x-gzip", zlib.compress(once)))


def test_a_missing_module_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compression._modules, "application/zstd", None)
    with pytest.raises(ValueError, match=r"zstd needs Python 3\.14 or the package backports\.zstd"):
        Codec(compression="zstd")
    with pytest.raises(ResultDecodeError, match=r"backports\.zstd"):
        PLAIN.decode(ID, compressed("application/zstd", b"x"))


def test_a_small_record_cannot_become_very_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty lists shrink to a thousandth, and take twenty times their text in memory."""
    text = b'{"status": "SUCCESS", "result": [' + b"[]," * (2 * compression_limits.RATIO_BYTES // 3) + b"[]]}"
    payload = compressed("application/x-gzip", zlib.compress(text, 9))
    for read in (PLAIN.decode, PLAIN.decode_large, PLAIN.decode_group):
        with pytest.raises(ResultTooLarge, match=rf"{len(payload)} bytes and decompresses to .*, more than 200 times"):
            read(ID, payload)
    # Text that shrinks as text does may be of any size, and any text may become a few megabytes.
    numbers = record(result=list(range(1_200_000)))
    assert len(numbers) > 2 * compression_limits.RATIO_BYTES
    assert PLAIN.decode(ID, compressed("application/x-gzip", zlib.compress(numbers))).result[-1] == 1_199_999
    spaces = record(result=" " * (compression_limits.RATIO_BYTES - 1000))
    assert PLAIN.decode(ID, compressed("application/x-gzip", zlib.compress(spaces))).successful


class Brotli:
    """What brotli 1.2 offers, over bz2."""

    class Decompressor:
        def __init__(self) -> None:
            self._stream = bz2.BZ2Decompressor()

        def process(self, body: bytes, *, output_buffer_limit: int) -> bytes:
            return self._stream.decompress(body, output_buffer_limit)

        def is_finished(self) -> bool:
            return self._stream.eof


class Zstd:
    """What compression.zstd offers, over bz2."""

    ZstdDecompressor = bz2.BZ2Decompressor


@pytest.mark.parametrize(("name", "module"), [("brotli", Brotli), ("zstd", Zstd)])
def test_modules_that_are_rarely_installed_are_given_the_limit(
    name: str, module: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are, the tests above use the real ones."""
    monkeypatch.setitem(compression._modules, compression._COMPRESSIONS[name], module)
    plain = bytes(3 * compression.CHUNK_BYTES)
    chunks = list(compression.decompressed(name, bz2.compress(plain)))
    assert b"".join(chunks) == plain
    assert max(map(len, chunks)) <= compression.CHUNK_BYTES
    with pytest.raises(EOFError):
        list(compression.decompressed(name, bz2.compress(plain)[:-8]))
