"""A mail as it is kept: compressed, and named by what it unpacks to."""

import hashlib
import threading
from dataclasses import dataclass

import msgspec
import zstandard

from mailtape.domain.message import Content, Summary
from mailtape.mime.understand import Understood

_LEVEL = 3
"""zstd's own default: mail shrinks to half at 470 MB/s; level 9 gains 4 % at a fifth of that."""
_MOST_UNPACKED = 256 * 1024 * 1024
"""Bytes that one blob may unpack to: four times the largest document that is ever read."""


class _Zstd(threading.local):
    """Contexts are dear to make and must not be shared by threads: one pair for each."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


_zstd = _Zstd()
_encoder = msgspec.msgpack.Encoder()
_content_decoder = msgspec.msgpack.Decoder(Content)


@dataclass(frozen=True, slots=True)
class PackedBlob:
    """Compressed bytes, and the length and sha256 (raw digest) of what they unpack to."""

    zstd: bytes
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Packed:
    """Everything to be kept of one mail."""

    summary: Summary
    raw: PackedBlob
    content: PackedBlob
    attachments: tuple[tuple[str, PackedBlob], ...]
    """Attachment id and bytes, in the order of the mail."""
    unparsed: bool
    """Whether no more than the header could be read."""


class DamagedBlob(Exception):
    """Stored bytes do not unpack to what was packed."""


def pack(raw: bytes, understood: Understood) -> Packed:
    """Compress a mail and what was understood of it."""
    content = understood.content
    return Packed(
        understood.summary,
        pack_bytes(raw),
        pack_bytes(_encoder.encode(content)),
        tuple(
            (facts.id, pack_bytes(payload, bytes.fromhex(facts.sha256)))
            for facts, payload in zip(content.attachments, understood.attachments, strict=True)
        ),
        "unparsed" in content.defects,
    )


def pack_bytes(data: bytes, sha256: bytes | None = None) -> PackedBlob:
    """Compress bytes; `sha256` spares the hashing when the digest is known."""
    return PackedBlob(
        _zstd.compressor.compress(data), len(data), sha256 or hashlib.sha256(data).digest()
    )


def unpack_bytes(packed: bytes) -> bytes:
    """Give back what `pack_bytes` was given.

    Raises:
        DamagedBlob: it is no whole blob of ours, or unpacks to more than any blob may.
    """
    try:
        size = zstandard.frame_content_size(packed)
        if not 0 <= size <= _MOST_UNPACKED:
            raise DamagedBlob(f"a blob claims {size} bytes")
        return _zstd.decompressor.decompress(packed, max_output_size=_MOST_UNPACKED)
    except zstandard.ZstdError as error:
        raise DamagedBlob(str(error)) from error


def unpack_content(packed: bytes) -> Content:
    """Give back the `Content` of a packed mail.

    Raises:
        DamagedBlob: as `unpack_bytes`, or the bytes are no `Content`.
    """
    try:
        return _content_decoder.decode(unpack_bytes(packed))
    except msgspec.MsgspecError as error:
        raise DamagedBlob(str(error)) from error
