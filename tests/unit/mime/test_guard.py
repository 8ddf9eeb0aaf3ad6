import pytest

from mailtape.mime import guard
from mailtape.mime.headers import newline_of


@pytest.mark.parametrize(
    ("raw", "bare"),
    [
        (b"", False),
        (b"a", False),
        (b"a\r\n\r\nb\r\n", False),
        (b"a\n\nb\n", False),
        (b"a\r\nb\rc\r\n", True),
        (b"a\r\nb\nc\r\n", True),
        (b"a\r\nb\r", True),
        (b"a\r\n\n", True),
        (b"\r\r\n", True),
        (b"a\n\rb\n", True),
        (b"a\rb", True),
        (b"\xff\r\n\x85\xe2\x80\xa8\x0b\x0c", False),
    ],
)
def test_a_line_end_is_bare_that_is_not_the_documents_own(raw: bytes, *, bare: bool) -> None:
    assert guard.has_bare_newline(raw, newline_of(raw)) is bare
