import hashlib

import pytest
import zstandard

from mailtape.mime.pack import DamagedBlob, pack, pack_bytes, unpack_bytes, unpack_content
from mailtape.mime.understand import understand

RAW = (
    b"Subject: s\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nhello\r\n"
    b"--x\r\nContent-Type: a/b\r\n\r\n\0\xff\r\n--x--\r\n"
)


def test_everything_comes_back_as_it_went_in() -> None:
    understood = understand(RAW)

    packed = pack(RAW, understood)

    assert packed.summary == understood.summary
    assert unpack_bytes(packed.raw.zstd) == RAW
    assert unpack_content(packed.content.zstd) == understood.content
    assert [(name, unpack_bytes(blob.zstd)) for name, blob in packed.attachments] == [
        ("1", b"\0\xff")
    ]


def test_a_blob_names_what_it_unpacks_to() -> None:
    for data in (b"", b"x", bytes(1_000_000)):
        blob = pack_bytes(data)

        assert (blob.size, blob.sha256) == (len(data), hashlib.sha256(data).digest())
        assert unpack_bytes(blob.zstd) == data
    packed = pack(RAW, understand(RAW))
    for _, blob in packed.attachments:
        assert blob.sha256 == hashlib.sha256(unpack_bytes(blob.zstd)).digest()


def test_refuses_what_is_no_whole_blob() -> None:
    whole = pack_bytes(b"hello" * 1_000).zstd

    for damaged in (b"", b"x" * 20, whole[:-1], whole[:10]):
        with pytest.raises(DamagedBlob):
            unpack_bytes(damaged)


def test_refuses_a_blob_that_unpacks_to_too_much() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(257 * 1024 * 1024))

    with pytest.raises(DamagedBlob):
        unpack_bytes(bomb)


def test_refuses_bytes_that_are_no_content() -> None:
    for data in (b"", b"\x93\1\2\3", b"\x81\xa1x\1"):
        with pytest.raises(DamagedBlob):
            unpack_content(pack_bytes(data).zstd)
