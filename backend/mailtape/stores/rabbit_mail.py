"""How a mail is written into a message of RabbitMQ, and read again.

The body is the length of the envelope, the envelope, and the raw bytes of the mail; those of a
large mail lie in the store of claims instead. Headers hold little: all of them must fit into one
frame, which an envelope of a thousand recipients would not.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from aio_pika.abc import HeadersType

from mailtape.domain.envelope import Envelope
from mailtape.domain.ids import IngestId, from_text, to_text
from mailtape.stores.queue_encoding import decode, decode_to_show, encode

CLAIM_OCTETS = 256 * 2**10
"""Raw mail over this is claimed: a megabyte and more in a message bloats a quorum queue's log."""

_REASON_CHARS = 1000

_INGEST_ID = "ingest-id"
_TRIES = "tries"
_SIZE = "claimed-size"
_REASON = "reason"
_PROBE = "probe"

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class RabbitMail:
    """One mail as it travels."""

    ingest_id: IngestId
    body: bytes
    size: int
    """Length of the raw bytes, wherever they lie."""
    claimed: bool
    tries: int = 0
    reason: str = ""

    @classmethod
    def of(cls, envelope: Envelope, raw: bytes) -> "RabbitMail":
        """Write a mail; its raw bytes come along unless they have to be claimed."""
        encoded = encode(envelope)
        claimed = len(raw) > CLAIM_OCTETS
        body = b"".join((_LENGTH.pack(len(encoded)), encoded, b"" if claimed else raw))
        return cls(envelope.ingest_id, body, len(raw), claimed)

    @classmethod
    def read(cls, headers: Mapping[str, object], body: bytes) -> "RabbitMail":
        """Read a message; whatever is missing in it is taken to be empty."""
        claimed = _SIZE in headers
        return cls(
            IngestId(from_text(str(headers.get(_INGEST_ID))) or bytes(16)),
            body,
            size=_number(headers[_SIZE]) if claimed else len(_split(body)[1]),
            claimed=claimed,
            tries=_number(headers.get(_TRIES)),
            reason=_reason(headers),
        )

    @property
    def headers(self) -> HeadersType:
        """What to send along with the body; nothing that can be done without, for it costs time."""
        headers: HeadersType = {_INGEST_ID: to_text(self.ingest_id)}
        if self.claimed:
            headers[_SIZE] = self.size
        if self.tries:
            headers[_TRIES] = self.tries
        if self.reason:
            headers[_REASON] = self.reason[:_REASON_CHARS]
        return headers

    @property
    def envelope(self) -> Envelope | None:
        """The envelope; None when it cannot be read."""
        return decode(_split(self.body)[0])

    @property
    def shown_envelope(self) -> Envelope:
        """The envelope, or what is known without it."""
        return decode_to_show(_split(self.body)[0], self.ingest_id, self.size)

    @property
    def raw(self) -> bytes:
        """The raw bytes, where they came along."""
        return bytes(_split(self.body)[1])


PROBE: HeadersType = {_PROBE: True}
"""Headers of a message that is no mail: sent to learn whether the queue takes any."""


def is_probe(headers: Mapping[str, object]) -> bool:
    """Whether a message is no mail."""
    return _PROBE in headers


def _split(message: bytes) -> tuple[memoryview, memoryview]:
    """Give the envelope and the raw bytes; both are empty when it is no mail."""
    body = memoryview(message)
    if len(body) < _LENGTH.size:
        return body[:0], body[:0]
    end = _LENGTH.size + _LENGTH.unpack_from(body)[0]
    return body[_LENGTH.size : end], body[end:]


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _reason(headers: Mapping[str, object]) -> str:
    reason = headers.get(_REASON)
    if isinstance(reason, str) and reason:
        return reason
    if headers.get("x-first-death-reason") == "delivery_limit":
        return "every worker that took it ended without a word"
    return ""
