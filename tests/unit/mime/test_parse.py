import base64
import time

import pytest

from mailtape.mime.limits import DEFAULT, Limits
from mailtape.mime.parse import parse


def mail(content_type: str, body: bytes, extra: str = "") -> bytes:
    return f"Content-Type: {content_type}\r\n{extra}\r\n".encode() + body


MIXED = 'multipart/mixed; boundary="x"'


def parts(*bodies: bytes) -> bytes:
    return b"".join(b"--x\r\n" + body + b"\r\n" for body in bodies) + b"--x--\r\n"


def test_tells_bodies_from_attachments() -> None:
    raw = mail(
        MIXED,
        parts(
            b"Content-Type: text/plain\r\n\r\nhello",
            b"Content-Type: text/html\r\n\r\n<p>hello",
            b'Content-Type: text/plain; name="notes.txt"\r\n\r\nnotes',
            b"Content-Type: text/html\r\nContent-Disposition: attachment\r\n\r\n<p>page",
            b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\ninner text",
        ),
    )

    parsed = parse(raw, DEFAULT)

    assert (parsed.text, parsed.unsafe_html) == ("hello", "<p>hello")
    assert [(leaf.content_type, leaf.filename, leaf.payload) for leaf in parsed.attachments] == [
        ("text/plain", "notes.txt", b"notes"),
        ("text/html", "", b"<p>page"),
        ("message/rfc822", "", b"Subject: inner\r\n\r\ninner text"),
    ]
    assert parsed.parser == "fast-mail-parser"
    assert parsed.defects == ()


def test_joins_texts_that_follow_each_other() -> None:
    raw = mail(MIXED, parts(b"\r\nfirst", b"\r\nsecond"))

    assert parse(raw, DEFAULT).text == "first\nsecond"


def test_a_header_that_only_a_loose_reader_sees_declares_nothing() -> None:
    raw = b"Subject: a\rContent-Type: text/html\r\n\r\n<p>hello"

    parsed = parse(raw, DEFAULT)

    assert parsed.unsafe_html is None
    assert parsed.text == "<p>hello"
    assert parsed.defects == ("bare_newline",)


@pytest.mark.parametrize("end", [b"\n", b"\r"])
def test_a_bare_line_end_makes_no_boundary(end: bytes) -> None:
    smuggled = end.join([b"text", b"--x", b"Content-Type: text/html", b"", b"<b>smuggled</b>"])
    raw = mail(MIXED, parts(b"Content-Type: text/plain\r\n\r\n" + smuggled))

    parsed = parse(raw, DEFAULT)

    assert parsed.unsafe_html is None
    assert parsed.text is not None
    assert "smuggled" in parsed.text
    assert "bare_newline" in parsed.defects


@pytest.mark.parametrize("end", [b"\n", b"\r"])
def test_a_bare_line_end_makes_no_field_of_a_part(end: bytes) -> None:
    head = b"Content-Type: text/plain;" + end + b"Content-Disposition: attachment\r\n\r\n"
    raw = mail(MIXED, parts(head + b"hello"))

    parsed = parse(raw, DEFAULT)

    assert parsed.text == "hello"
    assert parsed.attachments == ()


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_line_end_of_a_text_is_shown_as_one_line_feed(end: bytes) -> None:
    raw = mail("text/plain", b"one" + end + end + b"two" + end)

    assert parse(raw, DEFAULT).text == "one\n\ntwo\n"


def test_bare_line_feeds_in_a_text_stay_line_ends() -> None:
    raw = mail("text/plain", b"one\ntwo\r\n-- \nthree\r\n")

    assert parse(raw, DEFAULT).text == "one\ntwo\n-- \nthree\n"


def test_a_body_written_with_line_feeds_alone_is_read_so() -> None:
    raw = mail(
        MIXED, parts(b"\r\nhello", b"Content-Type: text/html\r\n\r\n<p>").replace(b"\r\n", b"\n")
    )

    parsed = parse(raw, DEFAULT)

    assert (parsed.text, parsed.unsafe_html) == ("hello", "<p>")


@pytest.mark.parametrize(
    ("encoding", "body", "decoded"),
    [
        ("base64", b"aGVs bG8", b"hello"),
        ("base64", b"aGVsbG8=\r\n-- \r\na footer\r\n", b"hello"),
        ("BASE64", b"!!!!aGVsbG8\r\n@@", b"hello"),
        ("quoted-printable", b"caf=C3=A9 \xc3\xa9=\r\n!", "café é!".encode()),
        ("8bit", b"\xc3\xa9", "é".encode()),
    ],
)
def test_decodes_what_can_be_decoded(encoding: str, body: bytes, decoded: bytes) -> None:
    head = f"Content-Type: application/x\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    raw = mail(MIXED, parts(head.encode() + body))

    (leaf,) = parse(raw, DEFAULT).attachments

    assert leaf.payload == decoded


def test_one_broken_part_does_not_harm_the_others() -> None:
    inner = b"a line\r\nContent-Transfer-Encoding: is a field\r\n"
    raw = mail(
        MIXED,
        parts(
            b"Content-Type: application/x\r\nContent-Transfer-Encoding: base64\r\n\r\n@@aGVsbG8",
            b"Content-Type: application/y\r\nContent-Transfer-Encoding: base64\r\n\r\n"
            + base64.b64encode(bytes(range(256))),
            b"Content-Type: application/z\r\n\r\n" + inner,
        ),
    )

    parsed = parse(raw, DEFAULT)

    assert [leaf.payload for leaf in parsed.attachments] == [b"hello", bytes(range(256)), inner]
    assert parsed.defects == ("transfer_encoding",)


def test_boundaries_that_begin_alike_are_left_to_the_standard_library() -> None:
    raw = mail(
        MIXED,
        parts(
            b"Content-Type: multipart/alternative; boundary=xy\r\n\r\n"
            b"--xy\r\n\r\ninner\r\n--xy--\r\n",
            b"Content-Type: text/html\r\n\r\n<p>outer",
        ),
    )

    parsed = parse(raw, DEFAULT)

    assert (parsed.text, parsed.unsafe_html) == ("inner", "<p>outer")
    assert parsed.parser == "email"


def test_what_the_fast_parser_refuses_is_read_by_the_standard_library() -> None:
    raw = mail(MIXED, parts(b" X-Fold-Of: nothing\r\n\r\nhello"))

    parsed = parse(raw, DEFAULT)

    assert parsed.text is not None
    assert "hello" in parsed.text
    assert parsed.parser == "email"


@pytest.mark.parametrize("content_type", ["multipart/mixed", "multipart/mixed; boundary=never"])
def test_a_multipart_without_parts_is_shown_as_text(content_type: str) -> None:
    parsed = parse(mail(content_type, b"--x\r\n\r\nhi\r\n"), DEFAULT)

    assert parsed.text == "--x\n\nhi\n"
    assert parsed.defects == ("boundary",)


def test_a_name_names_no_folder() -> None:
    raw = mail(
        MIXED,
        parts(b'Content-Type: a/b\r\nContent-Disposition: attachment; filename="../a\\b"\r\n\r\n'),
    )

    (leaf,) = parse(raw, DEFAULT).attachments

    assert not set(leaf.filename) & set("/\\")


@pytest.mark.parametrize(
    ("field", "name"),
    [
        (b'Content-Disposition: attachment; filename="Report; Q1 2026.pdf"', "Report; Q1 2026.pdf"),
        (b'Content-Type: application/pdf; name="Report; Q1 2026.pdf"', "Report; Q1 2026.pdf"),
        (b'Content-Disposition: attachment; filename="a\\"; x=\\"b.html"', "a_; x=_b.html"),
        (
            b"Content-Disposition: attachment; filename*0*=utf-8''%e2%82; filename*1*=%ac.pdf",
            "€.pdf",
        ),
        (
            b'Content-Disposition: attachment; filename="=?utf-8?Q?Gr=C3=BC=C3=9Fe?=.pdf"',
            "Grüße.pdf",
        ),
        (
            b'Content-Disposition: attachment; filename="=?utf-8?Q?=C3?=\r\n =?utf-8?Q?=BC?=.pdf"',
            "ü.pdf",
        ),
        (
            b"Content-Disposition: attachment;\r\n filename=\r\n =?utf-8?Q?a=22=3B_x=3Db?=\r\n",
            "a_; x=b",
        ),
        ('Content-Disposition: attachment; filename="Grüße.pdf"'.encode(), "Grüße.pdf"),
        (b'Content-Disposition: attachment; filename="Gr\xfc\xdfe.pdf"', "Grüße.pdf"),
        (b'Content-Disposition: attachment; filename=""\r\nContent-Type: a/b; name=c', "c"),
    ],
)
@pytest.mark.parametrize("parser", ["fast-mail-parser", "email"])
def test_an_attachment_has_the_whole_of_its_name(field: bytes, name: str, parser: str) -> None:
    alike = parts(b"Content-Type: multipart/mixed; boundary=xy\r\n\r\n--xy\r\n\r\n\r\n--xy--")
    raw = mail(MIXED, alike.removesuffix(b"--x--\r\n") if parser == "email" else b"")
    raw += parts(field.rstrip() + b"\r\n\r\nbody =? word")

    parsed = parse(raw, DEFAULT)

    assert parsed.parser == parser
    assert [(leaf.filename, leaf.payload) for leaf in parsed.attachments] == [
        (name, b"body =? word")
    ]


def test_hiding_the_words_of_a_name_leaves_every_payload_as_it_was() -> None:
    field = b'Content-Disposition: attachment; filename="=?utf-8?q?a?="'
    inner = b"Content-Type: message/rfc822\r\n\r\n" + field + b"\r\n\r\ninner"
    raw = mail(MIXED, parts(field + b"\r\n\r\n" + field, inner))

    parsed = parse(raw, DEFAULT)

    assert [(leaf.filename, leaf.payload) for leaf in parsed.attachments] == [
        ("a", field),
        ("", field + b"\r\n\r\ninner"),
    ]


def test_the_library_is_not_given_a_flood_of_parameters() -> None:
    flood = b"".join(b"; a%d*%d=b" % (number, number) for number in range(20_000))
    part = b"Content-Type: multipart/mixed" + flood + b"; boundary=z\r\n\r\n"
    raw = mail('multipart/mixed; boundary="x;"', parts(*[part] * 20).replace(b"--x", b"--x;"))

    started = time.process_time()
    parsed = parse(raw, DEFAULT)

    assert time.process_time() - started < 1
    assert parsed.parser == "email"


def test_a_payload_that_looks_like_a_hidden_word_stays_what_it_is() -> None:
    word = b'Content-Disposition: attachment; filename="=?utf-8?q?a?="\r\n'
    forged = b"=\x1fencoded-word\x1f?"
    coded = b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.b64encode(forged)

    in_base64 = parse(mail(MIXED, parts(word + coded)), DEFAULT)
    as_it_is = parse(mail(MIXED, parts(word + coded, word + b"\r\n" + forged)), DEFAULT)

    assert [leaf.payload for leaf in in_base64.attachments] == [forged]
    assert [leaf.payload for leaf in as_it_is.attachments] == [forged, forged]


@pytest.mark.parametrize("written", ["attachment (a comment)", '"ATTACHMENT"', "Attachment ;x=y"])
def test_an_attachment_is_one_however_that_is_written(written: str) -> None:
    raw = mail(MIXED, parts(f"Content-Disposition: {written}\r\n\r\nx".encode()))

    assert len(parse(raw, DEFAULT).attachments) == 1


@pytest.mark.parametrize(
    ("declared", "boundary"),
    [
        ('boundary="a;b"', b"a;b"),
        ('boundary="a; b=c"; charset=utf-8', b"a; b=c"),
        ('boundary="a\\"b"', b'a"b'),
        ('name="; boundary=c"; boundary="a b"', b"a b"),
        ('boundary*0="a"; boundary*1="b"', b"ab"),
    ],
)
def test_a_boundary_ends_where_its_quotes_do(declared: str, boundary: bytes) -> None:
    body = parts(b"\r\nhello", b"Content-Type: a/b\r\n\r\nx").replace(b"--x", b"--" + boundary)

    parsed = parse(mail(f"multipart/mixed; {declared}", body), DEFAULT)

    assert (parsed.text, len(parsed.attachments)) == ("hello", 1)
    assert parsed.defects == ()


@pytest.mark.parametrize(
    ("declared", "boundary"),
    [
        ('boundary="a\\"b"', b'a"b'),
        ('boundary="a;b"', b"a;b"),
        ('boundary*0="a"; boundary*1="b"', b"ab"),
        ("boundary*=us-ascii''a%62", b"ab"),
    ],
)
def test_a_bare_line_end_makes_no_odd_boundary(declared: str, boundary: bytes) -> None:
    line = b"--" + boundary
    body = line + b"\r\n\r\ntext\n" + line + b"\nContent-Type: text/html\n\n<b>smuggled</b>\r\n"

    parsed = parse(mail(f"multipart/mixed; {declared}", body + line + b"--\r\n"), DEFAULT)

    assert parsed.unsafe_html is None
    assert parsed.text is not None
    assert "smuggled" in parsed.text


@pytest.mark.parametrize(
    "declared",
    ['charset="iso-8859-2; x"', 'name="; charset=utf-16"; charset=iso-8859-2',
     "charset*=us-ascii''iso-8859-2", "charset='iso-8859-2'", "charset=iso-8859-2 (Latin 2)"],
)  # fmt: skip
def test_a_charset_ends_where_its_quotes_do(declared: str) -> None:
    raw = mail(f"text/plain; {declared}", b"\xb1")

    assert parse(raw, DEFAULT).text == "ą"


@pytest.mark.parametrize("declared", ["text/<script>", "foo", "a/b/c", "x" * 300 + "/y", "ä/b"])
def test_a_type_that_is_none_is_octets(declared: str) -> None:
    raw = mail(MIXED, parts(f"Content-Type: {declared}\r\n\r\nx".encode()))

    (leaf,) = parse(raw, DEFAULT).attachments

    assert leaf.content_type == "application/octet-stream"


def test_html_may_name_its_own_charset() -> None:
    page = b'<meta charset="iso-8859-2"><p>\xb1'

    assert parse(mail("text/html", page), DEFAULT).unsafe_html == page[:-1].decode() + "ą"


def test_reads_no_more_parts_than_the_limit() -> None:
    parsed = parse(mail(MIXED, parts(*[b"\r\na"] * 50)), Limits(parts=10))

    assert parsed.text is not None
    assert parsed.text.count("a") == 10
    assert parsed.defects == ("parts",)


def test_decodes_no_more_bytes_than_the_limit() -> None:
    part = b"Content-Type: a/b\r\n\r\n" + b"x" * 100

    parsed = parse(mail(MIXED, parts(part, part, part)), Limits(decoded_bytes=250))

    assert len(parsed.attachments) == 2
    assert parsed.defects == ("decoded_bytes",)


def test_keeps_no_more_text_than_the_limit() -> None:
    parsed = parse(mail("text/plain", b"x" * 100), Limits(text_chars=10))

    assert parsed.text == "x" * 10
    assert parsed.defects == ("text_too_long",)


@pytest.mark.parametrize("depth", [60, 300, 3_000])
def test_stops_at_a_depth(depth: int) -> None:
    body = b"".join(
        b"--b%03d\r\nContent-Type: multipart/mixed; boundary=b%03d\r\n\r\n" % (level, level + 1)
        for level in range(depth)
    )

    parsed = parse(mail("multipart/mixed; boundary=b000", body), DEFAULT)

    assert "depth" in parsed.defects
    assert "unparsed" not in parsed.defects


def test_messages_within_messages_are_not_walked_into() -> None:
    inner = b"Content-Type: message/rfc822\r\n\r\n" * 50 + b"\r\n" + b"x" * 2_000_000

    parsed = parse(mail("message/rfc822", inner), DEFAULT)

    (leaf,) = parsed.attachments
    assert leaf.content_type == "message/rfc822"
    assert leaf.payload == inner
