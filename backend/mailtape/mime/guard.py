"""What a MIME parser is given: a copy of the mail with bounded structure and honest line ends.

Parsers differ in what ends a line, and documents that are cheap to write are dear to parse. Both
are settled here on bytes, before any parser runs. Only the copy is changed, never the mail.
"""

import io
import itertools
import re

from mailtape.mime.headers import HeaderBlock
from mailtape.mime.limits import Limits

_MIME_FIELDS = frozenset(
    {
        "content-type",
        "content-transfer-encoding",
        "content-disposition",
        "content-id",
        "content-location",
    }
)
_DECLARED_BOUNDARY = re.compile(
    rb'boundary(?:(\*)|[ \t]*=[ \t\r\n]*(?:"((?:[^"\\\r\n]|\\[^\r\n]){1,200})"|([^\s";]{1,200})))',
    re.IGNORECASE,
)
_ESCAPED = re.compile(rb"\\(.)")
_MOST_BOUNDARIES = 100
"""Distinct boundaries that are told apart; with more, every line of two hyphens is one."""
_BARE_NEWLINE = rb"(?:\r(?!\n)|(?<!\r)\n)"
_INNER_MESSAGE = re.compile(
    rb"(content-type:\s*(?:message/rfc82|multipart/diges))([2t])", re.IGNORECASE
)
_HIDDEN_MESSAGE = re.compile(
    rb"(content-type:\s*(?:message/rfc82|multipart/diges))([3x])", re.IGNORECASE
)
_CONTAINER = re.compile(rb"^content-type:\s*(?:multipart|message)/", re.IGNORECASE | re.MULTILINE)
_ENCODING = re.compile(rb"^(content-transfer-)(e)(?=ncoding[ \t]*:)", re.IGNORECASE | re.MULTILINE)
_HIDDEN_ENCODING = re.compile(
    rb"^(content-transfer-)(x)(?=ncoding[ \t]*:)", re.IGNORECASE | re.MULTILINE
)
_NAMING = re.compile(
    rb"^content-(?:type|disposition)[ \t]*:[^\n]*+(?:\n[ \t][^\n]*+)*+",
    re.IGNORECASE | re.MULTILINE,
)
_WORD = b"=?"
_ANY_WORD = re.compile(rb"=\?")
"""Found in a third of the time that `in` takes for two bytes."""
_HIDDEN_WORD = b"=\x1fencoded-word\x1f?"
_HIDE = {b"2": b"3", b"t": b"x", b"T": b"X", b"e": b"x", b"E": b"X"}
_SHOW_MESSAGE = {b"3": b"2", b"x": b"t", b"X": b"T"}
_SHOW_ENCODING = {b"x": b"e", b"X": b"E"}


def document(
    raw: bytes, header: HeaderBlock, limits: Limits, *, bare_newline: bool
) -> tuple[bytes, tuple[str, ...]]:
    """Put the MIME fields of a strictly read header before the body, made safe for a parser.

    Args:
        raw: The mail.
        header: Its header as `headers.split` read it.
        limits: The bounds.
        bare_newline: What `has_bare_newline` said of it.

    Returns:
        The document, and the defects for what had to be changed in it.
    """
    defects: list[str] = []
    seen: set[str] = set()
    lines: list[str] = []
    for name, value in header.fields:
        lower = name.lower()
        if lower in _MIME_FIELDS and lower not in seen:
            seen.add(lower)
            if len(value) > limits.mime_value_bytes:
                defects.append("header_too_long")
                value = value[: limits.mime_value_bytes]  # noqa: PLW2901
            lines.append(f"{lower}: {value}\r\n")
    lines.append("\r\n")
    head = "".join(lines).encode()
    body = raw[header.body_start :]
    if len(body) > limits.document_bytes:
        defects.append("truncated")
        body = body[: limits.document_bytes]
    if bare_newline and header.newline == b"\r\n":
        body = _with_honest_lines(head, body)
    whole = head + body
    most = limits.boundary_lines
    # A single byte is counted twice as fast, and an attachment has none: 6 % of a mail of 1.4 MB.
    if len(whole) > 3 * most and whole.count(b"-") > most and whole.count(b"\n--") > most:
        whole, cut = cut_at_boundary(whole, most)
        if cut:
            defects.append("parts")
    return whole, tuple(defects)


def has_bare_newline(raw: bytes, newline: bytes) -> bool:
    """Tell whether a mail has a CR or LF that is no part of its own line end, `newline_of` it."""
    # It records which of the three it met, four times as fast as they are counted: 6 % of 34 kB.
    seen = io.IncrementalNewlineDecoder(None, translate=False)
    seen.decode(raw.decode("latin-1"), final=True)
    return seen.newlines not in (None, newline.decode())


def _boundaries(whole: bytes) -> set[bytes] | None:
    """Collect the boundaries that are declared anywhere.

    Returns:
        None when there are too many, or one comes in pieces or encoded (RFC 2231).
    """
    found: set[bytes] = set()
    for match in _DECLARED_BOUNDARY.finditer(whole):
        if match[1]:
            return None
        found.add(_ESCAPED.sub(rb"\1", match[2]) if match[2] else match[3])
        if len(found) > _MOST_BOUNDARIES:
            return None
    return found


def _alternatives(boundaries: set[bytes] | None) -> bytes:
    if boundaries is None:
        return b""
    return b"(?:" + b"|".join(re.escape(each) for each in sorted(boundaries)) + b")"


def _with_honest_lines(head: bytes, body: bytes) -> bytes:
    """Keep bare line ends of the body from making boundaries or header fields of parts.

    A body with no CRLF at all is one that was written with LF and is read so.
    """
    if b"\r\n" not in body.rstrip(b"\r\n"):
        return body
    boundaries = _boundaries(head + body)
    if boundaries is not None and not boundaries:
        return body  # no parts: nothing that a line end could make
    either = _alternatives(boundaries)
    body = re.sub(b"(" + _BARE_NEWLINE + b")(?=--" + either + b")", rb"\1 ", body)
    bare = re.compile(_BARE_NEWLINE)
    return re.sub(
        b"((?:^|\r\n)--" + either + rb"[^\r\n]*\r\n)(?!\r\n)(.*?)(?=\r\n\r\n|\Z)",
        lambda match: match[1] + bare.sub(b" ", match[2]),
        body,
        flags=re.DOTALL,
    )


def cut_at_boundary(whole: bytes, most: int) -> tuple[bytes, bool]:
    """Cut a document before the boundary line that is one too many."""
    pattern = re.compile(b"\n--" + _alternatives(_boundaries(whole)))
    for count, match in enumerate(pattern.finditer(whole)):
        if count == most:
            return whole[: match.start() + 1], True
    return whole, False


def cut_at_depth(whole: bytes, most: int) -> bytes:
    """Cut a document before the container that is one too many, however they are nested."""
    for count, match in enumerate(_CONTAINER.finditer(whole)):
        if count == most:
            return whole[: match.start()]
    return whole


def hide_inner_messages(whole: bytes) -> bytes:
    """Rename the types of messages within the message, so that a parser does not walk into them."""
    return _INNER_MESSAGE.sub(lambda match: match[1] + _HIDE[match[2]], whole)


def show_inner_messages(payload: bytes) -> bytes:
    """Undo `hide_inner_messages` in a decoded part."""
    return _HIDDEN_MESSAGE.sub(lambda match: match[1] + _SHOW_MESSAGE[match[2]], payload)


def inner_messages(whole: bytes) -> int:
    """Count what declares a message within the message."""
    lower = whole.lower()
    return lower.count(b"message/rfc822") + lower.count(b"multipart/digest")


def hide_encodings(whole: bytes) -> bytes:
    """Rename Content-Transfer-Encoding, so that a parser hands parts out undecoded."""
    return _ENCODING.sub(lambda match: match[1] + _HIDE[match[2]], whole)


def show_encodings(payload: bytes) -> bytes:
    """Undo `hide_encodings` in an undecoded part."""
    return _HIDDEN_ENCODING.sub(lambda match: match[1] + _SHOW_ENCODING[match[2]], payload)


def hide_words(whole: bytes) -> bytes | None:
    """Break the encoded words of the fields that name files, so that a parser leaves them alone.

    It would decode each by itself, though senders cut them within a character, and before it looks
    for quotes, though a word may hold some.

    Returns:
        None when there are none, or the mark of what is hidden is in the document already.
    """
    if b"?" not in whole or not _ANY_WORD.search(whole) or _HIDDEN_WORD in whole:
        return None
    changed = _NAMING.sub(lambda match: match[0].replace(_WORD, _HIDDEN_WORD), whole)
    return changed if len(changed) != len(whole) else None


def cut_long_types(whole: bytes, most: int) -> bytes:
    """Shorten the types that are longer than `most` bytes.

    The standard library looks for the boundary in all of it: 7 MB of parameters took it 2.4 s.
    """
    return _NAMING.sub(lambda match: match[0][:most], whole)


def has_hidden_words(payload: bytes) -> bool:
    """Tell whether a part holds what `hide_words` hid, or a sender's forgery of it."""
    return _HIDDEN_WORD in payload


def show_words(payload: bytes) -> bytes:
    """Undo `hide_words` in an undecoded part."""
    return payload.replace(_HIDDEN_WORD, _WORD)


def show_words_of_value(value: str) -> str:
    """Undo `hide_words` in the value of a field."""
    return value.replace(_HIDDEN_WORD.decode(), _WORD.decode())


def boundaries_collide(boundaries: list[str]) -> bool:
    """Tell whether one boundary begins with another, which the fast parser takes for the same."""
    ordered = sorted(set(boundaries))
    return any(later.startswith(former) for former, later in itertools.pairwise(ordered))
