"""Text for people in a hurry: the text of an HTML mail, the snippet, what a search reads.

Everything is linear in its input.
"""

import html
import re

from mailtape.domain.message import Mailbox
from mailtape.mime.headers import without_controls
from mailtape.mime.limits import Limits
from mailtape.mime.sanitise import SafeHtml

_TAG = re.compile(r"""<(/?[a-z0-9]++)(?:[^>"]++|"[^"]*+")*+>""")
_BLOCKS = frozenset(
    """
    address article aside blockquote br caption center dd div dl dt figcaption figure footer h1 h2
    h3 h4 h5 h6 header hr li main nav ol p pre section table tr ul
    """.split()  # noqa: SIM905 - a list of words reads as one
)
_CELLS = frozenset({"td", "th"})
_MANY_LINES = re.compile(r"\n{3,}")


def text_of(safe: SafeHtml, limits: Limits) -> str:
    """Give the text of sanitised HTML, a line a block; it relies on the serialiser's quoting."""
    text = html.unescape(_TAG.sub(_separator, safe))
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return _MANY_LINES.sub("\n\n", "\n".join(lines)).strip()[: limits.text_chars]


def _separator(match: re.Match[str]) -> str:
    name = match[1].lstrip("/")
    return "\n" if name in _BLOCKS else " " if name in _CELLS else ""


def snippet(text: str, limits: Limits) -> str:
    """Give the first words of a text on one line."""
    start = without_controls(text[: 8 * limits.snippet_chars].replace("\n", " "))
    words = " ".join(start.split())
    return words if len(words) <= limits.snippet_chars else words[: limits.snippet_chars].rstrip()


def search_text(subject: str, people: tuple[Mailbox, ...], text: str, limits: Limits) -> str:
    """Join what a search reads: subject, senders, recipients, text."""
    parts = [subject]
    for person in people:
        parts += (person.name, person.address)
    parts.append(text[: limits.search_chars])
    return " ".join(filter(None, parts))[: limits.search_chars]
