"""The two mails that are sent, and how one of them is made to differ from mail to mail."""

from dataclasses import dataclass
from pathlib import Path
from random import Random

_FOLDER = Path(__file__).parent / "mails"

SMALL = _FOLDER / "mail-6k.eml"
"""A one-time code in two alternatives, the everyday mail of an application."""
LARGE = _FOLDER / "mail-34k.eml"
"""An order confirmation with an attachment."""

COMMON_WORD = "verify"
"""Stands in every small mail."""


@dataclass(frozen=True, slots=True)
class Varied:
    """The small mail with another subject each time, so that a search has something to find."""

    head: bytes
    tail: bytes
    words: tuple[str, ...]

    def numbered(self, number: int) -> bytes:
        """The mail for this number, CRLF line ends, ready for DATA but for the final dot."""
        word = self.words[number % len(self.words)]
        return self.head + f"Subject: Verify your e-mail, {word} {number}\r\n".encode() + self.tail


def varied() -> Varied:
    """A thousand seeded words; each stands in one mail of a thousand."""
    raw = for_data(SMALL)
    start = raw.index(b"Subject:")
    end = raw.index(b"\r\n", start) + 2
    return Varied(head=raw[:start], tail=raw[end:], words=_words(1000))


def for_data(path: Path) -> bytes:
    """The mail with CRLF line ends and leading dots doubled (RFC 5321, 4.5.2)."""
    raw = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return raw.replace(b"\r\n.", b"\r\n..")


def _words(count: int) -> tuple[str, ...]:
    chance = Random(3)
    made: dict[str, None] = {}
    while len(made) < count:
        made[
            "".join(chance.choice("bdfgklmnprstvz") + chance.choice("aeiou") for _ in range(4))
        ] = None
    return tuple(made)
