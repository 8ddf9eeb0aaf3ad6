r"""The header of a mail, read strictly: CRLF ends a line and nothing else does.

A parser that takes a bare CR or LF for a line end lets `Subject: a\rX-Injected: b` make a header
that the sender's own system never wrote. So the list of headers always comes from here, never from
a MIME parser. Decoded values hold no control characters, so that no later use of one (a log, a CSV
file, an outgoing mail) can be broken by it.
"""

import binascii
import re
from dataclasses import dataclass

from mailtape.domain.message import Mailbox
from mailtape.mime.charsets import decode
from mailtape.mime.limits import Limits

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_WSP = b" \t"
_CONTROLS = dict.fromkeys((*range(9), *range(10, 32), *range(127, 160), 8232, 8233), " ")
"""C0 but the tab, DEL, C1 and Unicode's own line ends: what some reader takes for a new line."""


@dataclass(frozen=True, slots=True)
class HeaderBlock:
    """The fields of a header and where the body begins."""

    fields: tuple[tuple[str, str], ...]
    """Names and unfolded values in order; not decoded, without control characters."""
    body_start: int
    newline: bytes
    """What ends a line in this document: CRLF, or LF where there is no CRLF at all."""
    defects: tuple[str, ...]

    def by_name(self) -> dict[str, list[str]]:
        """Give the values in order by their field's name in lower case."""
        values: dict[str, list[str]] = {}
        for name, value in self.fields:
            values.setdefault(name.lower(), []).append(value)
        return values


def newline_of(raw: bytes) -> bytes:
    """Tell what ends a line: CRLF, unless the document has not a single one.

    A mail that came by SMTP always has one, before its final dot: so a bare LF makes no header
    there, and only a file that came by HTTP can be a document of LF.
    """
    return b"\n" if b"\r\n" not in raw and b"\n" in raw else b"\r\n"


def split(raw: bytes, limits: Limits) -> HeaderBlock:
    """Split a mail into the fields of its header and its body.

    The header ends at the first empty line, or before the first line that can be no field, as
    Postfix and the standard library have it. Never raises.
    """
    newline = newline_of(raw)
    step = len(newline)
    defects: list[str] = []
    if raw.startswith(newline):
        return HeaderBlock((), step, newline, ())
    end = raw.find(newline + newline)
    body_start = len(raw) if end < 0 else end + 2 * step
    block_end = len(raw) if end < 0 else end
    if block_end > limits.header_bytes:
        defects.append("header_too_long")
        cut = raw.rfind(newline, 0, limits.header_bytes)
        block_end = cut if cut > 0 else limits.header_bytes

    fields: list[tuple[bytes, list[bytes]]] = []
    position = 0
    for line in raw[:block_end].split(newline):
        if line[:1] in (b" ", b"\t"):
            if fields:
                fields[-1][1].append(line)
            else:
                defects.append("header_syntax")
        elif match := _FIELD.match(line):
            if len(fields) == limits.header_count:
                defects.append("header_count")
                break
            if match.end(1) > limits.header_name_bytes:
                defects.append("header_syntax")
                body_start = position
                break
            fields.append((match[1], [line[match.end() :]]))
        elif position == 0 and line.startswith((b"From ", b">From ")):
            pass  # the separator of an mbox file
        elif line or position < block_end:
            defects.append("header_syntax")
            body_start = position
            break
        position += len(line) + step

    return HeaderBlock(
        tuple((name.decode("ascii"), _value(parts, limits, defects)) for name, parts in fields),
        min(body_start, len(raw)),
        newline,
        tuple(dict.fromkeys(defects)),
    )


def _value(parts: list[bytes], limits: Limits, defects: list[str]) -> str:
    """Unfold a value (RFC 5322, section 2.2.3) and make it text."""
    value = parts[0] if len(parts) == 1 else b"".join(parts)
    value = value.strip(_WSP)
    if len(value) > limits.header_value_bytes:
        defects.append("header_too_long")
        value = value[: limits.header_value_bytes]
    if value.isascii():
        text = value.decode("ascii")
    else:
        text, _ = decode(value, "")  # RFC 6532: UTF-8; older senders: what they had
    return without_controls(text)


def without_controls(text: str) -> str:
    """Put a space for every character that some reader takes for a line end or a command."""
    return text if text.isprintable() else text.translate(_CONTROLS)


_ENCODED_WORD = re.compile(r"=\?([^?\s]{1,64})\?([bBqQ])\?([^?]*)\?=")
_NOT_BASE64 = bytes(
    set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
)


def lenient_base64(data: bytes) -> bytes:
    """Decode what can be decoded of base64, as RFC 2045, section 6.8 asks; never fails."""
    padding = data.find(b"=")
    if padding >= 0:
        data = data[:padding]  # whatever follows the end is a footer somebody added
    data = data.translate(None, _NOT_BASE64)
    rest = len(data) % 4
    if rest == 1:
        data = data[:-1]
    elif rest:
        data += b"=" * (4 - rest)
    return binascii.a2b_base64(data)


def decode_words(value: str) -> str:
    """Decode the encoded words of a value (RFC 2047); what is none stays as it is.

    Neighbouring words of one charset are decoded together: senders cut them within a character.
    """
    if "=?" not in value:
        return without_controls(value)
    pieces: list[str] = []
    pending = b""
    pending_charset = ""
    end = 0
    after_word = False
    for match in _ENCODED_WORD.finditer(value):
        between = value[end : match.start()]
        charset = match[1].partition("*")[0].lower()  # RFC 2231, section 5: a language may follow
        text = match[3].encode("utf-8", "replace")
        word = lenient_base64(text) if match[2] in "bB" else binascii.a2b_qp(text, header=True)
        adjacent = after_word and not between.strip()
        if adjacent and charset == pending_charset:
            pending += word
        else:
            if after_word:
                pieces.append(decode(pending, pending_charset)[0])
            if not adjacent:
                pieces.append(between)
            pending, pending_charset = word, charset
        after_word = True
        end = match.end()
    if after_word:
        pieces.append(decode(pending, pending_charset)[0])
    pieces.append(value[end:])
    return without_controls("".join(pieces))


_ADDRESS_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | "(?P<quoted>(?:[^"\\]|\\.)*)"?
    | <(?P<angle>(?:"[^"]*"|[^<>"])*)>?
    | (?P<open>\()
    | (?P<close>\))
    | (?P<end>[,;])
    | (?P<group>:)
    | (?P<atom>(?:[^\s"<,;:()\\]|\\.?)+)
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


class _Gathering:
    """The words of one mailbox as they come by."""

    __slots__ = ("angle", "comment", "spec", "words")

    def __init__(self) -> None:
        self.words: list[str] = []
        self.comment: list[str] = []
        self.spec: str | None = None
        self.angle: str | None = None

    def mailbox(self, limits: Limits) -> Mailbox | None:
        words = self.words
        address = self.angle if self.angle is not None else self.spec
        if address is None and len(words) == 1 and not words[0].startswith("=?"):
            address = words.pop()  # `From: root`
        name = decode_words(" ".join(words) or " ".join(self.comment))
        address = without_controls(address or "").strip()
        if '"' not in address:
            address = "".join(address.split())
        if address.startswith("@") and ":" in address:
            address = address.rpartition(":")[2]  # a source route, RFC 5321, appendix C
        if not name and not address:
            return None
        return Mailbox(name.strip()[: limits.name_chars], address[: limits.address_chars])


def addresses(value: str, limits: Limits) -> tuple[tuple[Mailbox, ...], bool]:
    """Read the mailboxes of an address field (RFC 5322, section 3.4), groups flattened.

    One pass without recursion, and it never fails: the standard library overflows its stack on
    nested comments and knows headers that its own objects cannot hold. Encoded words are decoded
    last, so a comma or an angle bracket within one makes no further address.

    Returns:
        The mailboxes, and whether there were more than `limits.addresses`.
    """
    if not value:
        return (), False
    found: list[Mailbox] = []
    current = _Gathering()
    depth = 0
    previous_quoted_end = -1
    for match in _ADDRESS_TOKEN.finditer(value):
        kind = match.lastgroup
        text = match[kind] if kind else match[0]
        if kind == "open":
            depth += 1
        elif kind == "close":
            depth = max(0, depth - 1)
        elif kind == "space":
            pass
        elif depth:
            current.comment.append(text)
        elif kind == "quoted":
            current.words.append(_ESCAPE.sub(r"\1", text))
            previous_quoted_end = match.end()
        elif kind == "angle":
            if current.angle is None:
                current.angle = text
        elif kind == "end":
            if (mailbox := current.mailbox(limits)) is not None:
                if len(found) == limits.addresses:
                    return tuple(found), True
                found.append(mailbox)
            current = _Gathering()
        elif kind == "group":
            if current.angle is None and current.spec is None:
                current = _Gathering()
        elif text.startswith("@") and match.start() == previous_quoted_end and current.words:
            current.spec = f'"{current.words.pop()}"{text}'
        elif "@" in text and current.spec is None and not text.startswith("=?"):
            current.spec = text
        else:
            current.words.append(text)
    if (mailbox := current.mailbox(limits)) is not None:
        if len(found) == limits.addresses:
            return tuple(found), True
        found.append(mailbox)
    return tuple(found), False
