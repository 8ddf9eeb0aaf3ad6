"""Twenty families of hostile mail, each of which has broken a parser that people relied on.

`families()` names them; each makes one mail from a source of chance. `variants(seed)` makes a
corpus that is the same for the same seed. Sizes are what a test run on two cores can afford; the
shapes are those that took gigabytes, minutes or the whole process elsewhere.
"""

import base64
import random
from collections.abc import Callable, Iterator

Family = Callable[[random.Random], bytes]

_TEXT_HEADER = (
    b"From: a@example.org\r\nTo: b@example.net\r\nSubject: hostile\r\nMIME-Version: 1.0\r\n"
)


def _with_body(content_type: bytes, body: bytes, extra: bytes = b"") -> bytes:
    return _TEXT_HEADER + b"Content-Type: " + content_type + b"\r\n" + extra + b"\r\n" + body


def encoded_word_bomb(chance: random.Random) -> bytes:
    """CPython `email` with policy.default: 0.44 MB of subject took 3.9 GB."""
    word = chance.choice([b"=?utf-8?q?a?=", b"=?utf-8?q?a", b"=?utf-8?b?w7w=?=", b"=?x?", b"=?=?"])
    glue = chance.choice([b" ", b"", b"\r\n "])
    size = chance.choice([110_000, 440_000, 1_000_000])
    return (
        b"Subject: " + glue.join([word] * (size // (len(word) + len(glue)))) + b"\r\n\r\nbody\r\n"
    )


def very_many_parts(chance: random.Random) -> bytes:
    """Dovecot (CVE-2020-12100) and CPython `email`: 100,000 parts took 8 s, a million over 60."""
    count = chance.choice([3_043, 20_000, 100_000, 300_000])
    part = chance.choice(
        [b"--x\r\n\r\na\r\n", b"--x\r\n", b"--x\r\nContent-Type: text/html\r\n\r\n\r\n"]
    )
    return _with_body(b"multipart/mixed; boundary=x", part * count + b"--x--\r\n")


def deep_multiparts(chance: random.Random) -> bytes:
    """CPython `email` (RecursionError) and Dovecot (CVE-2020-12100, stack)."""
    depth = chance.choice([60, 100, 300, 1_000, 10_000])
    kind = chance.choice([b"mixed", b"alternative", b"related", b"digest", b"signed"])
    opening = [
        b"--b%d\r\nContent-Type: multipart/%s; boundary=b%d\r\n\r\n" % (level, kind, level + 1)
        for level in range(depth)
    ]
    body = b"".join(opening) + b"--b%d\r\n\r\nthe innermost text\r\n" % depth
    return _with_body(b"multipart/mixed; boundary=b0", body)


def deep_messages(chance: random.Random) -> bytes:
    """Stalwart (CVE-2026-26312): nested broken message/rfc822 until the memory was gone."""
    depth = chance.choice([60, 300, 1_000, 10_000])
    size = chance.choice([0, 1_000, 1_000_000])
    kind = chance.choice([b"message/rfc822", b"Message/RFC822", b"message/rfc822; charset=x"])
    return (
        b"Content-Type: "
        + (kind + b"\r\n\r\nContent-Type: ") * depth
        + b"text/plain\r\n\r\n"
        + (b"x" * size)
    )


def very_many_addresses(chance: random.Random) -> bytes:
    """Dovecot (CVE-2024-23184) and CPython `email`: 20,000 addresses took 11 s."""
    count = chance.choice([2_000, 20_000])
    one = chance.choice([b"a@b.example", b'"A, B" <a@b.example>', b"a", b"<a@b>", b"g: a@b;", b"@"])
    glue = chance.choice([b", ", b",\r\n ", b",", b" "])
    field = chance.choice([b"To", b"Cc", b"From", b"Reply-To"])
    return field + b": " + glue.join([one] * count) + b"\r\nSubject: s\r\n\r\nbody\r\n"


def broken_addresses(chance: random.Random) -> bytes:
    """CPython `email` with policy.default: IndexError, AttributeError, RecursionError."""
    values = [
        b"@", b":;", b"a@[", b"a@[]", b'"', b"name*", b"(c):", b"<", b">", b",", b";", b"a@[b",
        b"=?utf-8?q?a=0D=0ABcc:_x?= <a@b>", b"(" * 1_000, b"(" * 60_000, b"((a)" * 5_000,
        b'"\\', b'<"', b"<a@b", b"a@b>", b'""@b', b"a b c@d e", b"g:a@b,:c@d;;", b"\xff\xfe@b",
    ]  # fmt: skip
    lines = [
        name + b": " + chance.choice(values)
        for name in (b"From", b"To", b"Cc", b"Reply-To", b"Sender")
    ]
    return b"\r\n".join(lines) + b"\r\nSubject: s\r\n\r\nbody\r\n"


def broken_message_ids(chance: random.Random) -> bytes:
    """CPython `email` (gh-94306, gh-105802): IndexError on identifiers as Exchange writes them."""
    value = chance.choice(
        [b"<", b"<[abc@example.com]>", b"<a@[b", b">", b"", b"<>", b"a b", b"<<a>>"]
    )
    return (
        b"Message-ID: " + value + b"\r\nReferences: " + value * 50 + b"\r\nSubject: s\r\n\r\nx\r\n"
    )


def parameter_flood(chance: random.Random) -> bytes:
    """Dovecot (CVE-2026-27859) and CPython `email`: 20,000 RFC 2231 parameters took 10 s."""
    count = chance.choice([4_000, 20_000])
    shape = chance.choice([b"; a%d*%d=b", b"; name*%d*=%%41%d", b"; a%d=%d", b'; a%d="%d'])
    parameters = b"".join(shape % (number, number) for number in range(count))
    if chance.random() < 0.5:
        return _with_body(b"text/plain" + parameters, b"body\r\n")
    part = b"--x\r\nContent-Type: text/plain" + parameters + b"\r\n\r\nbody\r\n--x--\r\n"
    return _with_body(b"multipart/mixed; boundary=x", part)


def bare_line_ends_in_header(chance: random.Random) -> bytes:
    """CPython `email` in every policy and Postfix 3.7: a bare CR or LF begins a new field."""
    end = chance.choice([b"\r", b"\n", b"\r\r", b"\n\r", b"\x0b", b"\x0c", b"\x85", b"\0", b"\x1e"])
    injected = chance.choice(
        [b"X-Injected: 1", b"Authentication-Results: x", b"Received: x", b"Bcc: x"]
    )
    line = chance.choice(
        [b"Subject: a" + end + injected, b"X" + end + injected + b": b", b"To: <a" + end + b"@b>"]
    )
    return b"From: a@example.org\r\n" + line + b"\r\nX-Last: 1\r\n\r\nbody\r\n"


def bare_line_ends_in_parts(chance: random.Random) -> bytes:
    """Mail gateways and clients that disagree on what ends a line show different attachments."""
    end = chance.choice([b"\r", b"\n", b"\n\n", b"\r\r"])
    smuggled = end.join([b"text", b"--x", b"Content-Type: text/html", b"", b"<b>smuggled</b>", b""])
    inside = b"Content-Type: text/plain;" + end + b"X-Injected: 1\r\nX-Fine: 1\r\n\r\n"
    body = b"--x\r\n" + inside + smuggled + b"\r\n--x\r\n\r\nsecond\r\n--x--\r\n"
    return _with_body(b"multipart/mixed; boundary=x", body)


def hostile_charsets(chance: random.Random) -> bytes:
    """CPython `email`: LookupError, UnicodeError or a decompressor by the name of a charset."""
    label = chance.choice(
        [b"utf-7", b"unicode_escape", b"idna", b"rot13", b"zlib_codec", b"undefined", b"hex",
         b"[charse<!doctype html>", b"x" * 10_000, b"\0", b"\xff", b"utf-16", b"utf-8\0", b"'", b""]
    )  # fmt: skip
    payload = bytes(chance.randrange(256) for _ in range(500))
    mail = b"Subject: =?" + label + b"?b?" + base64.b64encode(payload[:60]) + b"?=\r\n"
    kind = chance.choice([b"text/plain", b"text/html"])
    return mail + b"Content-Type: " + kind + b'; charset="' + label + b'"\r\n\r\n' + payload


def broken_transfer_encodings(chance: random.Random) -> bytes:
    """fast-mail-parser, flanker and many more: one stray byte of base64 and the mail is gone."""
    encoding, body = chance.choice(
        [
            (b"base64", b"!!!!aGVsbG8\r\n@@\r\n"),
            (b"base64", b"aGVsbG8=\r\n-- \r\na list's footer\r\n"),
            (b"base64", b"A" * 1_001 + b"\r\n" + b"=" * 5_000),
            (b"base64", b"=" * 100_000),
            (b"quoted-printable", b"=\r\n" * 100_000),
            (b"quoted-printable", b"=ZZ=4=\xff\xfe=0=\n" * 1_000),
            (b"x-uuencode", b"begin 644 a\r\n#0V%T\r\n`\r\nend\r\n"),
            (b"gzip", b"\x1f\x8b\x08\0\0\0\0\0"),
            (b"\0", b"x"),
            (b"base64" * 1_000, b"aGVsbG8="),
        ]
    )
    extra = b"Content-Transfer-Encoding: " + encoding + b"\r\n"
    if chance.random() < 0.5:
        return _with_body(b"text/plain", body, extra)
    part = b"--x\r\nContent-Type: application/x\r\n" + extra + b"\r\n" + body + b"\r\n--x--\r\n"
    return _with_body(b"multipart/mixed; boundary=x", part)


def broken_structure(chance: random.Random) -> bytes:
    """CPython `email`: KeyError on empty multiparts, UnicodeEncodeError on 8-bit boundaries."""
    return chance.choice(
        [
            _with_body(b"multipart/mixed", b"--x\r\n\r\nhi\r\n"),
            _with_body(b"multipart/mixed; boundary=", b"--\r\n\r\nhi\r\n"),
            _with_body(b"multipart/mixed; boundary=x", b"no part at all\r\n"),
            _with_body(b'multipart/mixed; boundary="\xff\xfe"', b"--\xff\xfe\r\n\r\nhi\r\n"),
            _with_body(b"multipart/mixed; boundary=x", b"--x--\r\n--x\r\n\r\nafter the end\r\n"),
            _with_body(
                b"multipart/mixed; boundary=x", b"--x\r\n Content-Type: a/b\r\n\r\nhi\r\n--x--"
            ),
            _with_body(b"multipart/mixed; boundary=x", b"--xy\r\n\r\nhi\r\n--x--\r\n"),
            _with_body(b"text/<script>alert(1)</script>", b"hi\r\n"),
            _with_body(b"multipart/mixed; boundary=x\0y", b"--x\0y\r\n\r\nhi\r\n"),
            _with_body(b"message/rfc822", b""),
            b" leading space\r\nSubject: s\r\n\r\nhi\r\n",
            b"no header at all\r\n\r\nhi\r\n",
            b"\r\n",
            b"",
            b":\r\n\r\n",
        ]
    )


def huge_header(chance: random.Random) -> bytes:
    """Dovecot (CVE-2024-23185): headers without a limit took all memory."""
    return chance.choice(
        [
            b"X: " + b"y" * 10_000_000 + b"\r\n\r\nbody\r\n",
            b"X: y\r\n" * 500_000 + b"\r\nbody\r\n",
            b"X: y" + b"\r\n z" * 500_000 + b"\r\n\r\nbody\r\n",
            b"X" * 5_000_000 + b": y\r\n\r\nbody\r\n",
            b":" * 3_000_000,
            b"X: " + b"\xff" * 3_000_000 + b"\r\n\r\n",
        ]
    )


def raw_noise(chance: random.Random) -> bytes:
    """Anything that reads bytes: NULs, lone line ends, nothing but one character, chance."""
    size = chance.choice([1, 100, 100_000, 2_000_000])
    return chance.choice(
        [
            b"\0" * size,
            b"\r" * size,
            b"\n" * size,
            b"\r\n" * size,
            b"--" * size,
            b"=?" * size,
            chance.randbytes(size),
            b"Subject: s\r\n\r\n" + chance.randbytes(size),
        ]
    )


def long_lines(chance: random.Random) -> bytes:
    """Mailpit (GHSA-r553) and aiosmtpd: lines over 998 octets, refused or without any limit."""
    length = chance.choice([998, 999, 1_000, 2_000, 70_000, 5_000_000])
    return _with_body(
        chance.choice([b"text/plain", b"text/html", b"multipart/mixed; boundary=x"]),
        b"x" * length + b"\r\n",
        b"X-Long: " + b"y" * min(length, 70_000) + b"\r\n",
    )


def html_bombs(chance: random.Random) -> bytes:
    """html5ever and libxml2: 20,000 nested elements, 8 kB that reopen half a million of them."""
    return _with_body(
        b"text/html; charset=utf-8",
        chance.choice(
            [
                b"<div>" * 20_000,
                b"<" * 50_000,
                b"<p>" + b"".join(b"<b style=a%d>" % i for i in range(500)) + b"<p>x" * 5_000,
                b"<b " + b" ".join(b"a%d" % i for i in range(200_000)) + b">",
                b"<table>" * 20_000,
                b"&amp" * 300_000,
                b"a&amp b " * 100_000,
                b"<!--" * 200_000,
                b"<a href=http://x>" * 50_000,
                b"<![CDATA[" * 100_000,
                b"<p style='" + b"color:red;" * 100_000 + b"'>",
                b"".join(b"<p style='color:rgb(%d 0 0 / 1)'>x" % i for i in range(20_000)),
                b"<b><i>" * 2_000 + b"</b></i>" * 2_000,
                b"<svg><style><b>" * 10_000,
                b"x" * 1_000_000,
            ]
        ),
    )


def snippet_bombs(chance: random.Random) -> bytes:
    """Dovecot (CVE-2020-7957, the snippet) and nodemailer (the link finder): text that costs."""
    text = chance.choice(
        [
            b"x" * 1_000_000,
            b" " * 1_000_000,
            b"http://" * 150_000,
            b"a@" * 400_000,
            b"\n" * 1_000_000,
            b"<" * 1_000_000,
            b"\xe2\x80\xa8" * 300_000,
            b"\xf0\x9f\x92\xa9" * 250_000,
        ]
    )
    return _with_body(b"text/plain; charset=utf-8", text)


def large_attachments(chance: random.Random) -> bytes:
    """CPython `email`: twelve times the size of the mail in memory; unpackers of zip bombs."""
    data = chance.choice(
        [b"\0" * 3_000_000, b"PK\x03\x04" + b"\0" * 1_000_000, b"\x89PNG\r\n\x1a\n" + b"\xff" * 64]
    )
    width = chance.choice([76, 998, 100_000])
    encoded = base64.b64encode(data)
    lines = b"\r\n".join(encoded[at : at + width] for at in range(0, len(encoded), width))
    part = (
        b"--x\r\nContent-Type: application/zip\r\nContent-Transfer-Encoding: base64\r\n"
        b'Content-Disposition: attachment; filename="a.zip"\r\n\r\n' + lines + b"\r\n"
    )
    return _with_body(b"multipart/mixed; boundary=x", part * chance.choice([1, 3]) + b"--x--\r\n")


def hostile_names(chance: random.Random) -> bytes:
    """MailDev (GHSA-vc6q-ccj9-9r89) and Mailpit (CVE-2026-45711): names that became paths."""
    name = chance.choice(
        [b"../../etc/passwd", b"..\\..\\x", b"a\0.exe", b"a\rb", b'a"; x="y', b"<script>alert(1)",
         b"=?utf-8?b?Li4vLi4veA==?=", b"=?utf-8?q?a=0D=0AX:_y?=", b"x" * 100_000, b".", b"..",
         b"con", b"\xe2\x80\xaegpj.exe", b"=cmd|' /C calc'!A0", b"/"]
    )  # fmt: skip
    part = (
        b'--x\r\nContent-Type: text/html; name="' + name + b'"\r\nContent-ID: <' + name + b">\r\n"
        b'Content-Disposition: attachment; filename="'
        + name
        + b'"\r\n\r\n<script>alert(1)</script>\r\n'
    )
    page = b'--x\r\nContent-Type: text/html\r\n\r\n<img src="cid:' + name + b'">\r\n'
    return _with_body(b"multipart/related; boundary=x", page + part + b"--x--\r\n")


def families() -> dict[str, Family]:
    """Name every family."""
    return {
        family.__name__: family
        for family in (
            encoded_word_bomb,
            very_many_parts,
            deep_multiparts,
            deep_messages,
            very_many_addresses,
            broken_addresses,
            broken_message_ids,
            parameter_flood,
            bare_line_ends_in_header,
            bare_line_ends_in_parts,
            hostile_charsets,
            broken_transfer_encodings,
            broken_structure,
            huge_header,
            raw_noise,
            long_lines,
            html_bombs,
            snippet_bombs,
            large_attachments,
            hostile_names,
        )
    }


def variants(
    seed: int, per_family: int = 10, *, only: str | None = None
) -> Iterator[tuple[str, bytes]]:
    """Make mails of every family, or of one, as `(family-number, bytes)`.

    The same seed makes the same mails.
    """
    for name, family in families().items():
        if only not in (None, name):
            continue
        chance = random.Random(f"{seed} {name}")
        for number in range(per_family):
            yield f"{name}-{number}", family(chance)
