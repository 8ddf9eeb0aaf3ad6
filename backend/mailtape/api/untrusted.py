"""Answers that hold what a stranger wrote, in a form that is safe to open in a browser.

Three layers, each meant to hold alone: the HTML was sanitised before it was kept; the page runs in
an opaque origin without scripts, forms or foreign loads (`Content-Security-Policy: sandbox`); and
everything that is no page is a download whose type no browser guesses (`nosniff`).
"""

import asyncio
import html
import re
import unicodedata
from collections.abc import AsyncIterator
from urllib.parse import quote

import zstandard
from fastapi import Response
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse

from mailtape.domain.errors import NotFound
from mailtape.domain.message import AttachmentFacts, Content
from mailtape.ports.bodies import Blob

PAGE_POLICY = (
    "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; "
    "img-src 'self' data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
)
DOWNLOAD_POLICY = "sandbox; default-src 'none'"

_HARMLESS_TYPES = frozenset(
    {
        "application/gzip",
        "application/json",
        "application/pdf",
        "application/zip",
        "audio/mpeg",
        "image/avif",
        "image/gif",
        "image/jpeg",
        "image/png",
        "image/webp",
        "text/calendar",
        "text/csv",
        "text/plain",
        "video/mp4",
    }
)
"""Types in which no browser runs anything, even if it ignored the disposition. Never one of XML's:
SVG, XHTML and XSLT are programs."""

_LONGEST_FILENAME = 150
_CHUNK = 256 * 1024


def page(content: Content) -> Response:
    """Show a message as a page: its HTML, or its text where it has none.

    Raises:
        NotFound: it has neither.
    """
    body = content.html
    if body is None and content.text is not None:
        body = f'<pre style="white-space: pre-wrap">{html.escape(content.text)}</pre>'
    if body is None:
        raise NotFound("This message has no page to show.", code="no_html")
    return HTMLResponse(
        body,  # as it is: what is changed after sanitising is not sanitised
        headers={
            "Content-Security-Policy": PAGE_POLICY,
            "X-Frame-Options": "SAMEORIGIN",
            "Cross-Origin-Resource-Policy": "same-origin",
        },
    )


def text(content: Content) -> Response:
    """Show a message's text part.

    Raises:
        NotFound: it has none.
    """
    if content.text is None:
        raise NotFound("This message has no text.", code="no_text")
    return PlainTextResponse(
        content.text,
        headers={
            "Content-Security-Policy": DOWNLOAD_POLICY,
            "Cross-Origin-Resource-Policy": "same-origin",
        },
    )


def raw(blob: Blob, name: str) -> Response:
    """Hand out a mail byte for byte, as a download."""
    return _download(blob, "message/rfc822", f"{name}.eml", "same-origin")


def attachment(facts: AttachmentFacts, blob: Blob) -> Response:
    """Hand out an attachment, as a download.

    Any origin may load it, because the page that shows it as an image has an opaque one, which is
    the same as none; what protects it is the token or the signed link.
    """
    declared = facts.content_type
    media_type = declared if declared in _HARMLESS_TYPES else "application/octet-stream"
    name = facts.filename or f"attachment-{facts.id}"
    return _download(blob, media_type, name, "cross-origin")


def disposition(filename: str) -> str:
    """Write a Content-Disposition that saves under this name (RFC 6266, RFC 8187).

    A name is hostile: what could end the header or the quotes, leave the folder, or show itself
    as another name (format characters turn text around) becomes an underscore.
    """
    safe = "".join("_" if _is_dangerous(character) else character for character in filename)
    safe = safe.strip(". ")[:_LONGEST_FILENAME] or "attachment"
    plain = re.sub(r"[^A-Za-z0-9 ._()\[\]+=,@-]", "_", safe)
    header = f'attachment; filename="{plain}"'
    return header if plain == safe else f"{header}; filename*=UTF-8''{quote(safe, safe='')}"


def _is_dangerous(character: str) -> bool:
    if character == " ":
        return False
    # C: controls, format, surrogates, private, unassigned; Z: separators, among them line ends.
    return character in '"\\/:*?<>|%' or unicodedata.category(character)[0] in "CZ"


def _download(blob: Blob, media_type: str, filename: str, policy: str) -> Response:
    return StreamingResponse(
        _unpack(blob),
        headers={
            "Content-Type": media_type,  # as a header: no charset is added to a stranger's text
            "Content-Length": str(blob.size),
            "Content-Disposition": disposition(filename),
            "Content-Security-Policy": DOWNLOAD_POLICY,
            "Cross-Origin-Resource-Policy": policy,
        },
    )


async def _unpack(blob: Blob) -> AsyncIterator[bytes]:
    with zstandard.ZstdDecompressor().stream_reader(blob.zstd) as reader:
        while chunk := reader.read(_CHUNK):
            yield chunk
            await asyncio.sleep(0)  # a large mail lets the others have their turn
