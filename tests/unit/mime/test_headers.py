import pytest

from mailtape.domain.message import Mailbox
from mailtape.mime.headers import addresses, decode_words, newline_of, split
from mailtape.mime.limits import DEFAULT, Limits


def names(raw: bytes) -> list[str]:
    return [name for name, _ in split(raw, DEFAULT).fields]


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\r", b"\n\r", b"\0", b"\x0b", b"\x85", b"\x1e"])
def test_nothing_but_crlf_begins_a_field(end: bytes) -> None:
    raw = b"Subject: a" + end + b"X-Injected: b\r\nTo: c\r\n\r\nbody"

    assert names(raw) == ["Subject", "To"]


def test_a_value_holds_no_character_that_a_reader_takes_for_a_line_end() -> None:
    block = split(b"Subject: a\rb\nc\0d\x0be\xc2\x85f\xe2\x80\xa8g\r\n\r\n", DEFAULT)

    assert block.fields == (("Subject", "a b c d e f g"),)


def test_unfolds_a_value_and_keeps_repeats_in_order() -> None:
    raw = b"Received: one\r\n\ttwo\r\nSubject:x\r\nReceived: three\r\n\r\n"

    assert split(raw, DEFAULT).fields == (
        ("Received", "one\ttwo"),
        ("Subject", "x"),
        ("Received", "three"),
    )


def test_reads_a_document_without_crlf_by_its_line_feeds() -> None:
    block = split(b"Subject: a\nTo: b\n\nbody\n", DEFAULT)

    assert block.fields == (("Subject", "a"), ("To", "b"))
    assert block.body_start == len(b"Subject: a\nTo: b\n\n")


def test_a_single_crlf_makes_a_document_of_crlf() -> None:
    assert newline_of(b"Subject: a\nTo: b\n\nbody\n") == b"\n"
    assert newline_of(b"Subject: a\nTo: b\n\nbody\r\n") == b"\r\n"
    assert newline_of(b"Subject: a\nTo: b\r\n\r\n") == b"\r\n"
    assert newline_of(b"Subject: a\r\n") == b"\r\n"


def test_the_header_ends_before_a_line_that_is_no_field() -> None:
    raw = b"Subject: a\r\nhello\r\nTo: b\r\n\r\nbody"

    block = split(raw, DEFAULT)

    assert block.fields == (("Subject", "a"),)
    assert raw[block.body_start :] == b"hello\r\nTo: b\r\n\r\nbody"
    assert block.defects == ("header_syntax",)


def test_skips_the_separator_of_an_mbox_and_a_fold_of_nothing() -> None:
    assert names(b"From a@b Fri Nov 20\nSubject: a\n\n") == ["Subject"]
    assert names(b" folded\r\nSubject: a\r\n\r\n") == ["Subject"]


@pytest.mark.parametrize(
    ("raw", "start"),
    [
        (b"", 0),
        (b"\r\n", 2),
        (b"\r\nbody", 2),
        (b"A: b", 4),
        (b"A: b\r\n", 6),
        (b"A: b\r\n\r\nx", 8),
    ],
)
def test_finds_the_body(raw: bytes, start: int) -> None:
    assert split(raw, DEFAULT).body_start == start


def test_an_eight_bit_value_is_utf_8_or_what_old_senders_had() -> None:
    block = split(b"A: caf\xc3\xa9\r\nB: caf\xe9\r\n\r\n", DEFAULT)

    assert block.fields == (("A", "café"), ("B", "café"))


def test_more_than_the_limits_leaves_a_defect() -> None:
    few = Limits(header_count=2, header_value_bytes=4, header_bytes=100)

    assert split(b"A: 1\r\nB: 2\r\nC: 3\r\n\r\n", few).defects == ("header_count",)
    assert split(b"A: 12345\r\n\r\n", few).fields == (("A", "1234"),)
    assert split(b"A: 1\r\n" + b"B: " + b"x" * 200 + b"\r\n\r\n", few).fields == (("A", "1"),)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("=?utf-8?b?R3LDvMOfZSw=?= your order", "Grüße, your order"),
        ("=?utf-8?q?=C3?= =?utf-8?q?=BC?=", "ü"),
        ("=?utf-8?q?a?=\t=?iso-8859-1?q?=FC?=", "aü"),
        ("a =?utf-8?q?b_c?= d", "a b c d"),
        ("=?utf-8*en?q?a?=", "a"),
        ("=?utf-8?b?R3LDvMOfZQ?=", "Grüße"),
        ("=?rot13?q?b=C3=BC?=", "bü"),
        ("=?zlib_codec?b?eJxLBAAAYgBi?=", "x\x9cK\x04"),
        ("=?utf-8?q?a=0D=0ABcc:_x=00?=", "a  Bcc: x "),
        ("=?utf-8?q?unfinished", "=?utf-8?q?unfinished"),
    ],
)
def test_decodes_encoded_words(value: str, text: str) -> None:
    decoded = decode_words(value)

    if "zlib" in value:  # read as windows-1252, never decompressed
        assert decoded.startswith("xœK")
    else:
        assert decoded == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a@b", [("", "a@b")]),
        ("Ann =?utf-8?q?M=C3=BCller?= <a@example.org>", [("Ann Müller", "a@example.org")]),
        ('"Müller, Ann" <a@b>, c@d', [("Müller, Ann", "a@b"), ("", "c@d")]),
        ('"say \\"hi\\"" <a@b>', [('say "hi"', "a@b")]),
        ("a@b (Ann)", [("Ann", "a@b")]),
        ("team: a@b, c@d;, e@f", [("", "a@b"), ("", "c@d"), ("", "e@f")]),
        ("undisclosed-recipients:;", []),
        ('"john doe"@example.com', [("", '"john doe"@example.com')]),
        ("<@a,@b:u@c>", [("", "u@c")]),
        ("root", [("", "root")]),
        ("a@b <x@y>", [("", "x@y")]),
        ('"a@b" <x@y>', [("a@b", "x@y")]),
        ("=?utf-8?q?a=40b=2C_c=40d?= <x@y>", [("a@b, c@d", "x@y")]),
        ("=?utf-8?q?a=0D=0Ab?= <a@b>", [("a  b", "a@b")]),
        ("< a @ b >", [("", "a@b")]),
        ("<a@b", [("", "a@b")]),
        ("a@[", [("", "a@[")]),
        ("@", [("", "@")]),
        (":;", []),
        ("(c):", []),
        ('"', []),
        ("", []),
    ],
)
def test_reads_addresses(value: str, expected: list[tuple[str, str]]) -> None:
    found, more = addresses(value, DEFAULT)

    assert found == tuple(Mailbox(name, address) for name, address in expected)
    assert not more


def test_stops_at_the_limit_of_addresses() -> None:
    found, more = addresses(", ".join(["a@b"] * 20_000), DEFAULT)

    assert len(found) == DEFAULT.addresses
    assert more


def test_nested_comments_need_no_stack() -> None:
    found, _ = addresses("(" * 60_000 + ")" * 60_000 + "a@b", DEFAULT)

    assert found == (Mailbox("", "a@b"),)
