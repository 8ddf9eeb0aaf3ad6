"""What a message says once it is understood.

`Summary` is what lists and searches need and goes into a row; `Content` is what the detail page
needs besides and goes, compressed, into the body store. Both are made once, by the worker, from
bytes that a stranger wrote: every string here is hostile and every length is bounded by
`mailtape.mime.limits`.
"""

from dataclasses import dataclass
from datetime import datetime

from mailtape.domain.ids import IngestId, MessageId


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A name and an address from a header (RFC 5322, section 3.4); either may be empty."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class AttachmentFacts:
    """What is known of one decoded attachment or inline part."""

    id: str
    """Its place in the message, counted from 1: stable, and safe in a path."""
    filename: str
    content_type: str
    """Declared type, lower case, `type/subtype` only."""
    size: int
    sha256: str
    content_id: str
    """Content-ID without its angle brackets; empty when the part has none."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a list shows and a search reads."""

    sender: Mailbox
    to: tuple[Mailbox, ...]
    subject: str
    snippet: str
    attachments: int
    search_text: str
    """Subject, sender, recipients and text in one string, cut to its limit."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A stored message as lists, events and `wait` show it."""

    id: MessageId
    transaction: IngestId
    """What it shares with the other recipients of the same mail."""
    sequence: int
    address: str
    """The envelope recipient, plus-tag and all."""
    sender: Mailbox
    to: tuple[Mailbox, ...]
    subject: str
    snippet: str
    received_at: datetime
    size: int
    """Raw bytes."""
    attachments: int
    unparsed: bool
    """Whether it could not be understood: there are only the envelope and the raw bytes."""
    read: bool
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reception:
    """How a message came in, as far as its own organisation may know."""

    protocol: str
    mail_from: str
    rcpt_to: tuple[str, ...]
    """Recipients of the same mail in this organisation; any other would give away a Bcc."""
    client_address: str
    helo: str
    tls: str


@dataclass(frozen=True, slots=True)
class Content:
    """What the detail page shows beyond the summary."""

    headers: tuple[tuple[str, str], ...]
    """Names and values as sent, in order, repeats included; values unfolded, not decoded."""
    cc: tuple[Mailbox, ...]
    reply_to: tuple[Mailbox, ...]
    text: str | None
    """The text part; for a mail of HTML alone, the text of it. None when there is neither."""
    html: str | None
    """Sanitised HTML, safe in a sandboxed frame; None when the mail has none."""
    attachments: tuple[AttachmentFacts, ...]
    defects: tuple[str, ...]
    """What was wrong with the mail, as short codes: defects are data, never errors."""
