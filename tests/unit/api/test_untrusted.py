import re
import unicodedata
from urllib.parse import unquote

import pytest

from mailtape.api.untrusted import attachment, disposition
from mailtape.domain.message import AttachmentFacts
from mailtape.ports.bodies import Blob

HOSTILE = [
    'a"; filename=evil.html',
    "a\r\nX-Evil: 1\r\n\r\n<script>",
    "invoice\u202egpj.exe",
    "a\u2028b\u2029c\u0085d",
    "../../etc/passwd",
    "..\\..\\windows\\win.ini",
    "C:evil.exe",
    "a\0b\x1b[2Jc\x7f",
    "%2e%2e%2fpasswd%22",
    "a\\",
    "é.txt",
    "報告書.pdf",
    "😀.png",
    ".htaccess",
    "   ",
    "...",
    "",
    "x" * 10_000,
    "é" * 10_000,
    "\ud800.txt",
    "a*'b;c,d.txt",
]


@pytest.mark.parametrize("filename", HOSTILE)
def test_a_file_name_never_leaves_its_quotes_its_header_or_its_folder(filename: str) -> None:
    header = disposition(filename)

    matched = re.fullmatch(
        r"attachment; filename=\"([A-Za-z0-9 ._()\[\]+=,@-]+)\""
        r"(?:; filename\*=UTF-8''([^;\s\"]+))?",
        header,
    )
    assert matched is not None, header
    assert len(header) < 2000
    names = [matched[1]]
    if matched[2]:
        names.append(unquote(matched[2], errors="strict"))
    for name in names:
        assert not name.startswith(".")
        assert not set(name) & set('"\\/:*?<>|%')
        assert all(c == " " or unicodedata.category(c)[0] not in "CZ" for c in name)


@pytest.mark.parametrize(
    ("filename", "header"),
    [
        ("invoice 7.pdf", 'attachment; filename="invoice 7.pdf"'),
        (
            "é report.pdf",
            "attachment; filename=\"_ report.pdf\"; filename*=UTF-8''%C3%A9%20report.pdf",
        ),
    ],
)
def test_an_honest_file_name_is_kept(filename: str, header: str) -> None:
    assert disposition(filename) == header


@pytest.mark.parametrize(
    ("declared", "served"),
    [
        ("image/png", "image/png"),
        ("text/plain", "text/plain"),
        ("application/pdf", "application/pdf"),
        ("text/html", "application/octet-stream"),
        ("TEXT/HTML", "application/octet-stream"),
        ("image/svg+xml", "application/octet-stream"),
        ("application/xhtml+xml", "application/octet-stream"),
        ("text/xml", "application/octet-stream"),
        ("application/xslt+xml", "application/octet-stream"),
        ("application/javascript", "application/octet-stream"),
        ("multipart/x-mixed-replace", "application/octet-stream"),
        ('text/html;x="', "application/octet-stream"),
        ("image/png, text/html", "application/octet-stream"),
        ("image/png\r\nX-Evil: 1", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
def test_only_a_harmless_type_is_passed_on(declared: str, served: str) -> None:
    facts = AttachmentFacts("1", "", declared, 0, "", "")

    response = attachment(facts, Blob(zstd=b"", size=0, sha256=b""))

    assert response.headers["content-type"] == served
    assert response.headers["content-disposition"] == 'attachment; filename="attachment-1"'
    assert response.headers["content-security-policy"] == "sandbox; default-src 'none'"
