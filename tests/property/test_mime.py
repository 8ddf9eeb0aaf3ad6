"""What must hold for any bytes at all."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from mailtape.mime.charsets import decode
from mailtape.mime.headers import addresses, decode_words, split
from mailtape.mime.limits import DEFAULT, Limits
from mailtape.mime.pack import pack, unpack_bytes, unpack_content
from mailtape.mime.sanitise import sanitise_html
from mailtape.mime.style import clean_parsed, clean_simple
from mailtape.mime.understand import Understood, understand, unparsed

SMALL = Limits(
    header_count=5,
    header_value_bytes=40,
    addresses=3,
    name_chars=10,
    address_chars=12,
    subject_chars=15,
    parts=4,
    depth=3,
    attachments=2,
    decoded_bytes=300,
    filename_chars=8,
    content_id_chars=6,
    text_chars=60,
    html_chars=80,
    html_depth=5,
    html_tags=20,
    snippet_chars=10,
    search_chars=50,
    defects=3,
)
WORDS = [
    b"From: ", b"To: ", b"Subject: ", b"Content-Type: ", b"multipart/mixed; boundary=x",
    b"multipart/mixed; boundary=xy", b"message/rfc822", b"text/html", b"text/plain; charset=",
    b"utf-16", b"utf-8", b"shift_jis", b"Content-Transfer-Encoding: ", b"base64",
    b"quoted-printable", b"Content-Disposition: attachment; filename=", b"a.txt", b"name*0*=",
    b"Content-ID: <a>", b"\r\n", b"\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b" ", b"\t",
    b"--x", b"--xy", b"--x--", b"--", b"aGVsbG8=", b"=?utf-8?q?=C3=A9?=", b"=?", b"?=", b"<a@b>",
    b"a@b", b",", b'"', b"(", b";", b":", b"<p>", b"<img src=cid:a>", b"<b", b">", b"\xff", b"x",
]  # fmt: skip
mails = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from(WORDS), max_size=60).map(b"".join),
)
TAGS = (
    "a b p div table tr td th caption tbody li ul dd dt h1 h2 font img pre button form fieldset "
    "svg math style script template select option ruby rt marquee center x-y details nobr title "
    "foreignObject mtext desc br col"
)
tokens = st.one_of(
    st.sampled_from(TAGS.split()).flatmap(
        lambda tag: st.sampled_from(
            [
                f"<{tag}>", f"</{tag}>", f"<{tag} href=https://a.b/>", f"<{tag} href=#>",
                f"<{tag} title=x style='position:fixed;color:red' lang=y>", f"<{tag} src=cid:x>",
                f"<{tag}/>", f'<{tag} style="color:rgb(1 2 3)" onclick=x align=left>',
            ]
        )
    ),
    st.sampled_from(["x", "\n", "\0", "<!--", "-->", "&lt;", "&amp;", "<![CDATA[", "]]>", '"']),
)  # fmt: skip
pages = st.lists(tokens, max_size=25).map("".join)


def reference_names(raw: bytes) -> list[bytes]:
    """Name the fields of a CRLF document, one line at a time."""
    found: list[bytes] = []
    for number, line in enumerate(raw.split(b"\r\n")):
        if line == b"":
            break
        if line[:1] in (b" ", b"\t"):
            continue
        name, colon, _ = line.partition(b":")
        name = name.rstrip(b" \t")
        if colon and name and all(33 <= byte <= 126 for byte in name):
            found.append(name)
        elif not (number == 0 and line.startswith((b"From ", b">From "))):
            break
    return found


@given(mails)
def test_the_header_is_what_a_strict_reader_sees(raw: bytes) -> None:
    raw = b"X: y\r\n" + raw + b"\r\n\r\nz"

    assert [name.encode() for name, _ in split(raw, DEFAULT).fields] == reference_names(raw)


@given(mails)
def test_no_value_holds_a_control_character(raw: bytes) -> None:
    for _, value in split(raw, DEFAULT).fields:
        assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", value)
        decoded = decode_words(value)
        assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", decoded)


def within(understood: Understood, limits: Limits) -> None:
    summary, content = understood.summary, understood.content
    assert len(content.headers) <= limits.header_count
    for people in (summary.to, content.cc, content.reply_to, (summary.sender,)):
        assert len(people) <= limits.addresses
        for person in people:
            assert len(person.name) <= limits.name_chars
            assert len(person.address) <= limits.address_chars
    assert len(summary.subject) <= limits.subject_chars
    assert len(summary.snippet) <= limits.snippet_chars
    assert len(summary.search_text) <= limits.search_chars
    assert summary.attachments == len(content.attachments) == len(understood.attachments)
    assert summary.attachments <= min(limits.attachments, limits.parts)
    assert sum(map(len, understood.attachments)) <= limits.decoded_bytes
    assert len(content.text or "") <= limits.text_chars
    for facts, payload in zip(content.attachments, understood.attachments, strict=True):
        assert facts.size == len(payload)
        assert len(facts.filename) <= limits.filename_chars
        assert len(facts.content_id) <= limits.content_id_chars
    assert len(content.defects) <= limits.defects


@settings(max_examples=500, deadline=None)
@given(mails)
def test_any_bytes_are_understood_within_limits_and_come_back(raw: bytes) -> None:
    for limits in (DEFAULT, SMALL):
        for understood in (understand(raw, limits), unparsed(raw, limits)):
            within(understood, limits)
            packed = pack(raw, understood)
            assert unpack_bytes(packed.raw.zstd) == raw
            assert unpack_content(packed.content.zstd) == understood.content
            for (_, blob), payload in zip(packed.attachments, understood.attachments, strict=True):
                assert unpack_bytes(blob.zstd) == payload


@settings(max_examples=1_000, deadline=None)
@given(st.one_of(pages, st.text(max_size=100)))
def test_sanitising_twice_is_sanitising_once(page: str) -> None:
    safe, _ = sanitise_html(page, cid_to_attachment={"x": "1"}, limits=DEFAULT)

    again, defects = sanitise_html(safe, cid_to_attachment={"x": "1"}, limits=DEFAULT)

    assert again == safe
    assert defects == ()


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["color", "margin", ":", ":", ";", " ", "red", "0", "'a'", '"', "(", ")", "rgb(",
             "calc(", "url(", "/*", "*/", "\\", "!important", ",", "#fff", "10%", "-",
             "@", "{", "}", "<"]
        ),
        max_size=15,
    ).map("".join)
)  # fmt: skip
def test_a_cleaned_style_is_clean(style: str) -> None:
    simple = clean_simple(style)
    kept = clean_parsed(style) if simple is None else simple

    once_more = clean_simple(kept)

    assert (clean_parsed(kept) if once_more is None else once_more) == kept
    assert "url" not in kept
    assert not set(kept) & set("\\@{}<")


@given(st.text(max_size=200))
def test_any_text_has_addresses(value: str) -> None:
    found, _ = addresses(value, SMALL)

    assert len(found) <= SMALL.addresses


@given(st.binary(max_size=50), st.one_of(st.text(max_size=20), st.sampled_from(["utf-16", "gbk"])))
def test_any_bytes_in_any_charset_are_text(data: bytes, label: str) -> None:
    text, _ = decode(data, label)

    text.encode()
