"""Mail handed over by HTTP: the same rules and the same replies as on the wire."""

from collections.abc import Sequence
from dataclasses import dataclass

from mailtape.domain import address
from mailtape.domain.envelope import Delivery, Protocol
from mailtape.domain.errors import Forbidden, Invalid, MailtapeError, NotFound, Refused
from mailtape.domain.ids import IngestId
from mailtape.ports.queue import Queue
from mailtape.services import intake
from mailtape.services.recipients import Recipients

ACCEPTED = "accepted"

_REPLIES: dict[type[MailtapeError], str] = {
    Refused: "550 5.7.1 Refused",
    Invalid: "501 5.1.3 Malformed address, write <name@domain>",
    NotFound: "550 5.1.1 No such mailbox",
    Forbidden: "550 5.7.1 Refused",
}
_TOO_LARGE = "550 5.2.3 Message too large for this mailbox"


@dataclass(frozen=True, slots=True)
class RecipientStatus:
    """What became of one recipient."""

    address: str
    status: str
    """`accepted`, or the reply that SMTP gives."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a mail; `id` is None when no recipient was accepted and nothing was kept."""

    id: IngestId | None
    recipients: tuple[RecipientStatus, ...]


async def ingest(
    queue: Queue,
    recipients: Recipients,
    raw: bytes,
    *,
    now_us: int,
    sender: str,
    addresses: Sequence[str],
    client_address: str,
    idempotency_key: str,
) -> Ingested:
    """Keep a mail for those recipients that take it; durable on return.

    Raises:
        Invalid: the sender is no address.
        Unavailable: nothing was kept; the same call may be made again.
    """
    mail_from = address.reverse_path(sender, smtputf8=True)
    answers = [await _answer(recipients, given, len(raw)) for given in addresses]
    statuses = tuple(
        RecipientStatus(given, answer if isinstance(answer, str) else ACCEPTED)
        for given, answer in zip(addresses, answers, strict=True)
    )
    deliveries = dict.fromkeys(answer for answer in answers if isinstance(answer, Delivery))
    if not deliveries:
        return Ingested(None, statuses)
    envelope = await intake.accept(
        queue,
        raw,
        now_us=now_us,
        protocol=Protocol.HTTP,
        mail_from=mail_from,
        deliveries=list(deliveries),
        client_address=client_address,
        idempotency_key=idempotency_key,
    )
    return Ingested(envelope.ingest_id, statuses)


def reply_to(error: Refused) -> str:
    """Say why a recipient is refused, in the words of SMTP."""
    return next(_REPLIES[base] for base in type(error).__mro__ if base in _REPLIES)


async def _answer(recipients: Recipients, given: str, octets: int) -> Delivery | str:
    """Resolve a recipient, or say why not."""
    try:
        destination = await recipients.resolve(address.mailbox(given, smtputf8=True))
    except Refused as error:
        return reply_to(error)
    if destination.limits.message_bytes is not None and octets > destination.limits.message_bytes:
        return _TOO_LARGE
    return destination.delivery
