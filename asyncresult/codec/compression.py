"""Compressed records: undone chunk by chunk, so that a small stream cannot become more than the caller allows.

Source: kombu/compression.py and celery/backends/base.py (5.7).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from .json import Bytes

__all__ = ["COMPRESSED", "compressed_record", "compressor", "decompressed", "load_compressions"]

#: What is decompressed at once: the most by which the limit is overshot.
CHUNK_BYTES = 1024 * 1024

#: A compressed record: this, the content type, a NUL, the stream.
COMPRESSED = b"\0celery-compressed\0"

_GZIP, _BZ2, _LZMA = "application/x-gzip", "application/x-bz2", "application/x-lzma"
_BROTLI, _ZSTD = "application/x-brotli", "application/zstd"
_COMPRESSIONS = {
    **dict.fromkeys(("gzip", "zlib", _GZIP), _GZIP),  # a zlib stream, whatever the name says
    **dict.fromkeys(("bzip2", "bzip", _BZ2), _BZ2),
    **dict.fromkeys(("lzma", "xz", _LZMA), _LZMA),
    **dict.fromkeys(("brotli", _BROTLI), _BROTLI),
    **dict.fromkeys(("zstd", "zstandard", _ZSTD), _ZSTD),
}
_NEEDS = {_BROTLI: "the package brotli, 1.2 or later", _ZSTD: "Python 3.14 or the package backports.zstd"}
# liblzma takes the memory that the stream requests; its strongest preset requests 65 MB.
_LZMA_MEMORY = 128 * 1024 * 1024


_MODULES = {
    _GZIP: ("zlib",),
    _BZ2: ("bz2",),
    _LZMA: ("lzma",),
    _BROTLI: ("brotli", "brotlicffi"),
    _ZSTD: ("compression.zstd", "backports.zstd"),
}
_modules: dict[str, Any] = {}


def _first_module(*names: str) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            pass
    return None


def load_compressions() -> None:
    """Import what undoes compression, for a codec that is made: not sooner (benchmarks: import), and not later, for
    then it would be an import because of what Redis holds."""
    for content_type, names in _MODULES.items():
        if content_type not in _modules:
            module = _first_module(*names)
            if content_type == _BROTLI and not hasattr(getattr(module, "Decompressor", None), "can_accept_more_data"):
                module = None  # before 1.2 there was no way to limit its output
            _modules[content_type] = module


def compressor(name: str) -> tuple[str, Any]:
    """The content type and the module for a name or content type. ValueError: unknown or not installed."""
    content_type = _COMPRESSIONS.get(name)
    if content_type is None:
        raise ValueError(f"unknown compression {name[:80]!r}")
    module = _modules[content_type]
    if module is None:
        raise ValueError(f"{content_type} needs {_NEEDS.get(content_type, 'a Python that was built with it')}")
    return content_type, module


def compressed_record(name: str, stream: Bytes) -> bytes:
    """What is stored for a stream that was compressed in the way ``name`` says."""
    return b"".join((COMPRESSED, name.encode("utf-8", "replace"), b"\0", stream))


def decompressed(name: str, body: Bytes) -> Iterator[bytes]:
    """The content of one stream, by at most a little more than CHUNK_BYTES. It may raise anything."""
    content_type, module = compressor(name)
    brotli = content_type == _BROTLI
    stream: Any
    if content_type == _GZIP:
        stream = module.decompressobj()
    elif content_type == _BZ2:
        stream = module.BZ2Decompressor()
    elif content_type == _LZMA:
        stream = module.LZMADecompressor(memlimit=_LZMA_MEMORY)
    elif content_type == _ZSTD:
        stream = module.ZstdDecompressor()
    else:
        stream = module.Decompressor()

    def ended() -> bool:
        return bool(stream.is_finished() if brotli else stream.eof)

    while not ended():
        if brotli:
            chunk = stream.process(body, output_buffer_limit=CHUNK_BYTES)
        else:
            chunk = stream.decompress(body, CHUNK_BYTES)
        if not chunk and not ended():
            raise EOFError("the stream is cut short")
        yield chunk
        # All but zlib keep for themselves what they have not looked at yet.
        body = stream.unconsumed_tail if content_type == _GZIP else b""
