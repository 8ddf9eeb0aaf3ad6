"""From bytes to decoded parts: the fast parser first, the standard library's where it gives up.

`parse` never raises and is bounded by `Limits` for any bytes. What could not be parsed gives a
result with the defect `unparsed`: headers as far as they are readable, and no body. The list of
headers always comes from the strict reading, whichever parser read the parts.
"""

import binascii
import email
import email.policy
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message

from fast_mail_parser import (
    DecodeError,
    MimeStructureError,
    ParseError,
    PyLazyMimePart,
    parse_email_tree,
)

from mailtape.mime import guard
from mailtape.mime.charsets import decode
from mailtape.mime.headers import (
    HeaderBlock,
    lenient_base64,
    split,
    without_controls,
)
from mailtape.mime.limits import Limits
from mailtape.mime.parameters import parameters

_PLAIN = "text/plain"
_HTML = "text/html"
_UNKNOWN = "application/octet-stream"
_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}")
_CHARSET = re.compile(r"""[^\s"';]{1,64}""")
_ODD_BOUNDARY = re.compile(r"""[;"\\]""")
"""What the fast parser cuts a boundary at, or leaves escaped; RFC 2046 allows none."""
_META_CHARSET = re.compile(rb"""<meta[^<>]{0,200}charset\s*=\s*["']?([\w-]{1,40})""", re.IGNORECASE)
_SHORT = 64 * 1024
"""Bytes below which no number of encoded words is dear: 13,000 of them cost 90 ms."""
_UNSAFE_IN_NAME = re.compile(r'[/\\:*?"<>|\x00]')


class _WordsToHide(Exception):
    """A file's name may hold encoded words, which the parser has spoilt.

    Attributes:
        document: What to give it instead.
    """

    def __init__(self, document: bytes) -> None:
        super().__init__()
        self.document = document


class _HiddenInPayload(Exception):
    """What was hidden from the parser is in what it decoded, where it cannot be told apart."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One decoded part that holds no further parts, or a whole message within the message."""

    content_type: str
    """Lower case, `type/subtype` only."""
    charset: str
    """As declared; may be anything."""
    filename: str
    content_id: str
    location: str
    """Content-Location, by which some HTML names its pictures (RFC 2557)."""
    disposition: str
    """`attachment`, `inline`, anything in lower case, or empty."""
    payload: bytes


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a mail consists of; nothing in it is safe to show yet."""

    header: HeaderBlock
    text: str | None
    unsafe_html: str | None
    attachments: tuple[Leaf, ...]
    defects: tuple[str, ...]
    parser: str
    """`fast-mail-parser`, `email`, or `none` when neither could."""


def parse(raw: bytes, limits: Limits) -> Parsed:
    """Read a mail; never raises."""
    header = split(raw, limits)
    defects = list(header.defects)
    bare_newline = guard.has_bare_newline(raw, header.newline)
    if bare_newline:
        defects.append("bare_newline")
    if b"\0" in raw:
        defects.append("nul")
    document, changed = guard.document(raw, header, limits, bare_newline=bare_newline)
    defects += changed
    leaves: list[Leaf] | None = None
    parser = "none"
    most = limits.encoded_words
    # A single byte is counted three times as fast, and an attachment has none: 9 % of 1.4 MB.
    if len(document) <= _SHORT or document.count(b"?") <= most or document.count(b"=?") <= most:
        leaves = _with_fast_parser(document, limits, defects)
        parser = "fast-mail-parser"
    if leaves is None:
        leaves = _with_standard_library(document, limits, defects)
        parser = "email"
    if leaves is None:
        return Parsed(header, None, None, (), (*defects, "unparsed"), "none")
    text, html, attachments = _sort_out(leaves, limits, defects)
    return Parsed(header, text, html, attachments, tuple(defects), parser)


# The fast parser


def _with_fast_parser(document: bytes, limits: Limits, defects: list[str]) -> list[Leaf] | None:
    """Read the leaves with fast-mail-parser; None when it cannot."""
    hidden = False
    if len(document) > limits.nested_copies_bytes // 256:  # its own limit of depth
        copies = guard.inner_messages(document)
        if copies * len(document) > limits.nested_copies_bytes:
            document = guard.hide_inner_messages(document)
            hidden = True
    own_decoding = not document.isascii() and b"uoted-printable" in document
    words_hidden = False
    for _ in range(4):  # each round settles one thing for good
        found: list[str] = []
        try:
            if own_decoding:
                root = parse_email_tree(guard.hide_encodings(document), mode="lazy")
            else:
                root = parse_email_tree(document, mode="lazy")
            leaves = _fast_leaves(
                root,
                document,
                limits,
                found,
                own_decoding=own_decoding,
                words_hidden=words_hidden,
            )
        except _WordsToHide as instead:
            document = instead.document
            words_hidden = True
        except _HiddenInPayload:
            own_decoding = True
        except DecodeError:
            if own_decoding:
                return None
            own_decoding = True
            defects.append("transfer_encoding")
        except MimeStructureError:
            defects.append("depth")
            document = guard.cut_at_depth(document, limits.depth)
        except ParseError:
            return None
        else:
            defects += found
            if leaves is not None and hidden:
                return [_shown(leaf) for leaf in leaves]
            return leaves
    return None


def _shown(leaf: Leaf) -> Leaf:
    types = {"message/rfc823": "message/rfc822"}
    return Leaf(
        types.get(leaf.content_type, leaf.content_type),
        leaf.charset,
        leaf.filename,
        leaf.content_id,
        leaf.location,
        leaf.disposition,
        guard.show_inner_messages(leaf.payload),
    )


def _fast_leaves(
    root: PyLazyMimePart,
    document: bytes,
    limits: Limits,
    defects: list[str],
    *,
    own_decoding: bool,
    words_hidden: bool,
) -> list[Leaf] | None:
    """Walk the tree; None when it cannot be trusted because it misreads a boundary."""
    leaves: list[Leaf] = []
    boundaries: list[str] = []
    decoded = 0
    words_settled = words_hidden
    todo = [(root, 1)]
    while todo:
        part, depth = todo.pop()
        fields = {name.lower(): values[0] for name, values in part.headers.items() if values}
        declared = fields.get("content-type", "")
        disposed = fields.get("content-disposition", "")
        if words_hidden:
            declared = guard.show_words_of_value(declared)
            disposed = guard.show_words_of_value(disposed)
        content_type = _content_type(part.content_type)
        of_type = parameters(declared, limits)
        children = () if part.is_message else part.children
        is_container = content_type.startswith("multipart/")
        if is_container and (boundary := of_type.get("boundary")):
            if _ODD_BOUNDARY.search(boundary) or "boundary*" in declared.lower():
                return None
            boundaries.append(boundary)
        if children:
            if depth > limits.depth:
                defects.append("depth")
            else:
                todo += [(child, depth + 1) for child in reversed(children)]
            continue
        if is_container:
            defects.append("boundary")
            if part is not root:
                continue  # a container without any part
            content_type = _PLAIN
            payload = document[document.find(b"\r\n\r\n") + 4 :]
            if words_hidden:
                payload = guard.show_words(payload)
        else:
            payload = part.content or b""
            if words_hidden and guard.has_hidden_words(payload):
                if not own_decoding:
                    raise _HiddenInPayload
                payload = guard.show_words(payload)
            if own_decoding:
                payload = _decoded(payload, fields.get("content-transfer-xncoding", ""), defects)
        if len(leaves) == limits.parts:
            defects.append("parts")
            break
        decoded += len(payload)
        if decoded > limits.decoded_bytes:
            defects.append("decoded_bytes")
            break
        name = _name(disposed, of_type, limits)
        if name and not words_settled:
            words_settled = True
            if (instead := guard.hide_words(document)) is not None:
                raise _WordsToHide(instead)
        leaves.append(
            Leaf(
                content_type,
                _charset(of_type),
                _filename(name, limits),
                _content_id(part.content_id or "", limits),
                fields.get("content-location", "")[: limits.url_chars],
                _disposition(disposed),
                payload,
            )
        )
    if len(boundaries) > 1 and guard.boundaries_collide(boundaries):
        return None
    return leaves


def _decoded(payload: bytes, encoding: str, defects: list[str]) -> bytes:
    """Undo a transfer encoding (RFC 2045, section 6) as far as that goes."""
    payload = guard.show_encodings(payload)
    match encoding.strip().lower():
        case "base64":
            return lenient_base64(payload)
        case "quoted-printable":
            return binascii.a2b_qp(payload)
        case "" | "7bit" | "8bit" | "binary":
            return payload
        case _:
            defects.append("transfer_encoding")
            return payload


# The standard library's parser


def _with_standard_library(
    document: bytes, limits: Limits, defects: list[str]
) -> list[Leaf] | None:
    """Read the leaves with `email` under compat32; None when even that fails."""
    if len(document) > limits.fallback_bytes:
        defects.append("truncated")
        document = document[: limits.fallback_bytes]
    document, cut = guard.cut_at_boundary(document, limits.fallback_parts)
    if cut:
        defects.append("parts")
    shallow = guard.cut_at_depth(document, limits.fallback_parts)
    if len(shallow) < len(document):
        defects.append("depth")
    # It takes a bare CR for a line end (RFC 5322, section 2.3 forbids one anywhere).
    document = re.sub(rb"\r(?!\n)", b" ", guard.cut_long_types(shallow, limits.mime_value_bytes))
    try:
        root = email.message_from_bytes(document, policy=email.policy.compat32)
        return list(_library_leaves(root, limits, defects))
    except RecursionError:
        defects.append("depth")
    except Exception:  # noqa: BLE001 - its failures on hostile mail are of a dozen types
        return None
    try:
        document = guard.cut_at_depth(document, limits.depth)
        root = email.message_from_bytes(document, policy=email.policy.compat32)
        return list(_library_leaves(root, limits, defects))
    except Exception:  # noqa: BLE001 - as above
        return None


def _library_leaves(
    root: "Message[str, str]", limits: Limits, defects: list[str]
) -> Iterator[Leaf]:
    decoded = count = 0
    todo: list[tuple[Message[str, str], int]] = [(root, 1)]
    while todo:
        part, depth = todo.pop()
        content_type = _content_type(part.get_content_type())
        inner = part.get_payload()
        if isinstance(inner, list) and content_type.startswith("multipart/"):
            if depth > limits.depth:
                defects.append("depth")
            else:
                todo += [
                    (child, depth + 1) for child in reversed(inner) if isinstance(child, Message)
                ]
            continue
        if isinstance(inner, list):
            payload = b"\n".join(
                each.as_bytes() for each in inner if isinstance(each, Message)
            )  # message/rfc822
        else:
            content = part.get_payload(decode=True)
            payload = content if isinstance(content, bytes) else b""
        if content_type.startswith("multipart/"):
            defects.append("boundary")
            content_type = _PLAIN
        count += 1
        decoded += len(payload)
        if count > limits.parts:
            defects.append("parts")
            return
        if decoded > limits.decoded_bytes:
            defects.append("decoded_bytes")
            return
        fields = {name.lower(): value for name, value in reversed(list(part.raw_items()))}
        disposed = _unfolded(fields.get("content-disposition", ""), limits)
        of_type = parameters(_unfolded(fields.get("content-type", ""), limits), limits)
        yield Leaf(
            content_type,
            _charset(of_type),
            _filename(_name(disposed, of_type, limits), limits),
            _content_id(str(part.get("content-id", "")), limits),
            str(part.get("content-location", ""))[: limits.url_chars],
            _disposition(disposed),
            payload,
        )


def _unfolded(value: str, limits: Limits) -> str:
    """Make text of a value as `email` keeps it: with its line ends, and odd bytes as surrogates."""
    data = value[: 2 * limits.mime_value_bytes].encode("ascii", "surrogateescape")
    return decode(data.replace(b"\r", b"").replace(b"\n", b""), "")[0]


# What both have in common


def _content_type(declared: str) -> str:
    declared = declared.partition(";")[0].strip().lower()
    if _TYPE.fullmatch(declared):
        return declared
    return _PLAIN if not declared or declared == "text" else _UNKNOWN


def _charset(of_type: Mapping[str, str]) -> str:
    match = _CHARSET.search(of_type.get("charset", ""))
    return match[0] if match else ""


def _disposition(disposed: str) -> str:
    """Give the first word: a comment may follow it, and some quote it."""
    if not disposed:
        return ""
    words = disposed.partition(";")[0].split(maxsplit=1)
    return words[0].strip('"').lower() if words else ""


def _name(disposed: str, of_type: Mapping[str, str], limits: Limits) -> str:
    declared = parameters(disposed, limits).get("filename") if disposed else None
    return declared or of_type.get("name", "")


def _filename(declared: str, limits: Limits) -> str:
    """Make a name that names no folder and breaks no header."""
    if not declared:
        return ""
    name = _UNSAFE_IN_NAME.sub("_", without_controls(_storable(declared))).strip().lstrip(".")
    return name[: limits.filename_chars]


def _content_id(declared: str, limits: Limits) -> str:
    return without_controls(_storable(declared)).strip().strip("<>")[: limits.content_id_chars]


def _storable(text: str) -> str:
    """Put U+FFFD for what no UTF-8 can hold: the library marks odd bytes with lone surrogates."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


def _sort_out(
    leaves: list[Leaf], limits: Limits, defects: list[str]
) -> tuple[str | None, str | None, tuple[Leaf, ...]]:
    """Tell bodies from attachments: text that has no name and is not declared an attachment."""
    texts: list[str] = []
    pages: list[str] = []
    attachments: list[Leaf] = []
    alone = len(leaves) == 1
    for leaf in leaves:
        shown = leaf.disposition != "attachment" and (alone or not leaf.filename)
        if shown and leaf.content_type == _PLAIN:
            texts.append(_text(leaf, leaf.charset, limits.text_chars, defects))
        elif shown and leaf.content_type == _HTML:
            pages.append(_text(leaf, leaf.charset or _sniffed(leaf), limits.html_chars, defects))
        elif len(attachments) < limits.attachments:
            attachments.append(leaf)
        else:
            defects.append("attachments")
    text = _joined(texts, limits.text_chars, "text_too_long", defects)
    html = _joined(pages, limits.html_chars, "html_too_long", defects)
    return text, html, tuple(attachments)


def _text(leaf: Leaf, charset: str, most: int, defects: list[str]) -> str:
    payload = leaf.payload
    if len(payload) > 4 * most:  # no charset takes more than four bytes a character
        payload = payload[: 4 * most]
    text, known = decode(payload, charset)
    if not known:
        defects.append("charset")
    # Twice as fast as two replacements: 7 % of a text mail of 8 kB.
    text = io.IncrementalNewlineDecoder(None, translate=True).decode(text, final=True)
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _sniffed(leaf: Leaf) -> str:
    """Find the charset that the HTML itself names, as browsers do within the first kilobyte."""
    match = _META_CHARSET.search(leaf.payload, 0, 1024)
    return match[1].decode("ascii", "replace") if match else ""


def _joined(pieces: list[str], most: int, defect: str, defects: list[str]) -> str | None:
    if not pieces:
        return None
    whole = pieces[0] if len(pieces) == 1 else "\n".join(pieces)
    if len(whole) > most:
        defects.append(defect)
        return whole[:most]
    return whole
