"""The envelope: what the wire said about a mail, kept apart from the bytes of the mail itself.

Made once, at acceptance, and never changed. The header of a mail claims; the envelope is what
happened. One envelope is one transaction (one MAIL … DATA); each of its deliveries becomes one
message.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from mailtape.domain.ids import IngestId, MessageId, OrganisationId, message_id


class Protocol(StrEnum):
    """The door a mail came through; a column of eight characters keeps it."""

    SMTP = "smtp"
    LMTP = "lmtp"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One accepted recipient and the organisation whose mail it becomes."""

    recipient: str
    """The envelope recipient in lower case, plus-tag and all: `qa+run7@mail.example.com`."""
    mailbox: str
    """The same without its plus-tag, by which lists are filtered: `qa@mail.example.com`."""
    organisation_id: OrganisationId


@dataclass(frozen=True, slots=True)
class Envelope:
    """The facts of one accepted transaction."""

    ingest_id: IngestId
    accepted_us: int
    """Time of acceptance, microseconds since 1970 in UTC."""
    protocol: str
    """The door, a `Protocol`; read as it is, so that a door of a newer release is no obstacle."""
    mail_from: str
    """The reverse path; empty for a bounce (RFC 5321, section 4.5.5)."""
    deliveries: tuple[Delivery, ...]
    size: int
    """Length of the raw bytes."""
    client_address: str = ""
    helo: str = ""
    tls: str = ""
    """Version and cipher of the session, as `TLSv1.3 TLS_AES_256_GCM_SHA384`; empty in clear."""
    queue_id: str = ""
    """Postfix's queue id (XFORWARD IDENT); empty for direct mail."""
    idempotency_key: str = ""
    """The HTTP client's own key; empty when it gave none."""
    transaction: str = ""
    """The name under which the quota was held for it; empty in mail queued by older releases."""

    @property
    def accepted_at(self) -> datetime:
        """Time of acceptance."""
        return datetime.fromtimestamp(self.accepted_us / 1e6, UTC)

    def message_id(self, delivery: Delivery) -> MessageId:
        """Name the message that a delivery becomes, however often it is done."""
        return message_id(self.accepted_us // 1000, self.ingest_id, delivery.recipient)
