"""Mail handed over by HTTP: the same rules and the same replies as on the wire."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from mailtape.domain import address
from mailtape.domain.envelope import Delivery, Protocol
from mailtape.domain.errors import Conflict, Forbidden, Invalid, MailtapeError, NotFound, Refused
from mailtape.domain.ids import IngestId, OrganisationId
from mailtape.ports.queue import Queue
from mailtape.rows import receipts
from mailtape.rows.database import Database
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


@dataclass(frozen=True, slots=True)
class Submission:
    """A mail that somebody hands over, as they said it."""

    raw: bytes
    sender: str
    addresses: tuple[str, ...]
    client_address: str

    def digest(self) -> bytes:
        """Name what makes another request the same one."""
        said = "\n".join((self.sender, *self.addresses))
        return hashlib.sha256(hashlib.sha256(self.raw).digest() + said.encode()).digest()


async def ingest(
    queue: Queue,
    recipients: Recipients,
    database: Database,
    submission: Submission,
    *,
    organisation_id: OrganisationId,
    idempotency_key: str,
    now: datetime,
) -> Ingested:
    """Keep a mail for those recipients that take it; durable on return.

    A request that names itself by a key gets the same answer when it is sent again. Killed between
    keeping the mail and keeping the answer, a repeat gets another id, and one message all the same.

    Raises:
        Invalid: the sender is no address.
        Conflict: `idempotency_key_reused`, for another mail.
        Unavailable: nothing was kept, or nobody knows; the same call may be made again.
    """
    if not idempotency_key:
        return await _keep(queue, recipients, submission, idempotency_key, now)
    key_hash = hashlib.sha256(idempotency_key.encode()).digest()
    digest = submission.digest()
    told = await database.read(receipts.find, organisation_id, key_hash)
    if told is not None and told.request_hash != digest:
        raise Conflict("This key was used for another mail.", code="idempotency_key_reused")
    if told is not None:
        return Ingested(
            IngestId(told.ingest_id), tuple(RecipientStatus(*status) for status in told.statuses)
        )
    # The key is the caller's own: two organisations may think of the same one.
    own_key = f"{organisation_id.hex()}:{idempotency_key}"
    done = await _keep(queue, recipients, submission, own_key, now)
    if done.id is not None:
        await database.write(
            receipts.add,
            organisation_id,
            key_hash,
            request_hash=digest,
            ingest_id=done.id,
            statuses=[[status.address, status.status] for status in done.recipients],
            now=now,
        )
    return done


async def _keep(
    queue: Queue,
    recipients: Recipients,
    submission: Submission,
    idempotency_key: str,
    now: datetime,
) -> Ingested:
    raw, addresses = submission.raw, submission.addresses
    sender = submission.sender
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
        now_us=int(now.timestamp() * 1_000_000),
        protocol=Protocol.HTTP,
        mail_from=mail_from,
        deliveries=list(deliveries),
        client_address=submission.client_address,
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
