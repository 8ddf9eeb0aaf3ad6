import pytest

from mailtape.mime.charsets import decode


@pytest.mark.parametrize(
    ("data", "label", "text"),
    [
        (b"caf\xc3\xa9", "utf-8", "café"),
        (b"caf\xe9", "iso-8859-1", "café"),
        (b"\x93x\x94", "ISO-8859-1", "“x”"),
        (b"\x82\xa0", "shift_jis", "あ"),
        (b"\xc4\xe3", " GB2312 ", "你"),
        (b"\xff\xfea\0", "utf-16", "a"),
    ],
)
def test_reads_the_charsets_that_browsers_know(data: bytes, label: str, text: str) -> None:
    assert decode(data, label) == (text, True)


@pytest.mark.parametrize(
    "label",
    ["utf-7", "unicode_escape", "idna", "rot13", "zlib_codec", "undefined", "hex", "utf-16",
     "[charse<!doctype html>", "x" * 10_000, "utf-8\0", "ü", "hz-gb-2312", "x-user-defined"],
)  # fmt: skip
def test_no_other_label_reaches_a_codec(label: str) -> None:
    assert decode(b"+ADw- caf\xc3\xa9", label) == ("+ADw- café", False)
    assert decode(b"caf\xe9", label) == ("café", False)


def test_without_a_label_bytes_are_utf_8_or_windows_1252() -> None:
    assert decode(b"\xef\xbb\xbfcaf\xc3\xa9", "") == ("café", True)
    assert decode(b"caf\xe9", "us-ascii") == ("café", True)


def test_a_byte_without_meaning_becomes_the_replacement_character() -> None:
    assert decode(b"\xff", "utf-8") == ("\N{REPLACEMENT CHARACTER}", True)
