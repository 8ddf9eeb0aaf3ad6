"""Mail handed over by HTTP: the same rules and the same replies as on the wire."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mailtape.domain import address
from mailtape.domain.envelope import Protocol
from mailtape.domain.errors import Conflict, Refused, TooMany, Unavailable
from mailtape.domain.ids import IngestId, OrganisationId
from mailtape.domain.quota import MALFORMED_ADDRESS, Decision, Reason, Verdict, refusal
from mailtape.domain.tier import Limits
from mailtape.ports.queue import Queue
from mailtape.rows import receipts
from mailtape.rows.database import Database
from mailtape.services import intake
from mailtape.services.quota import Judged, Quota, Silent

ACCEPTED = "accepted"
_ROOM_SECONDS = 60
"""When to ask again whether there is room: nobody knows when messages will be deleted."""


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
    limited: TooMany | None = None
    """When nothing was kept, and waiting helps every recipient: the limit that is free first."""


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
    quota: Quota,
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
        transaction = f"http:{secrets.token_hex(16)}"
        return await _keep(queue, quota, submission, transaction, "", now)
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
    # Named by its bytes as well: a key must not carry two mails past what one may use.
    transaction = f"http:{own_key}:{digest.hex()}"
    done = await _keep(queue, quota, submission, transaction, own_key, now)
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
    quota: Quota,
    submission: Submission,
    transaction: str,
    idempotency_key: str,
    now: datetime,
) -> Ingested:
    """Judge the recipients, keep the mail for those that take it, count it for them."""
    octets = len(submission.raw)
    mail_from = address.reverse_path(submission.sender, smtputf8=True)
    judged: list[Judged | None] = []
    taken: list[Judged] = []
    silent: Silent | None = None
    for given in submission.addresses:
        each = await _judge(quota, given, transaction, octets, taken, silent=silent)
        judged.append(each)
        if each is not None:
            silent = each.silent or silent
            if each.decision.accepted:
                taken.append(each)
    statuses = tuple(map(_status, submission.addresses, judged))
    if not taken:
        if any(each and each.decision.reason is Reason.CANNOT_DECIDE for each in judged):
            raise Unavailable("It cannot be told at the moment whether this mail is taken.")
        return Ingested(None, statuses, _limited(judged))
    try:
        envelope = await intake.accept(
            queue,
            submission.raw,
            now_us=int(now.timestamp() * 1_000_000),
            protocol=Protocol.HTTP,
            mail_from=mail_from,
            deliveries=list(
                dict.fromkeys(each.destination.delivery for each in taken if each.destination)
            ),
            client_address=submission.client_address,
            idempotency_key=idempotency_key,
            transaction=transaction,
        )
    except Exception:
        await quota.release(transaction, taken)
        raise
    await quota.commit(transaction, taken, octets)
    return Ingested(envelope.ingest_id, statuses)


def _limited(judged: Sequence[Judged | None]) -> TooMany | None:
    """Find the limit that is free first; None when a recipient is refused for good."""
    refusals = [
        _used_up(each.decision, each.destination.limits)
        for each in judged
        if each and each.destination and each.decision.verdict is Verdict.LATER
    ]
    if len(refusals) < len(judged):
        return None
    return min(refusals, key=lambda refusal: refusal.retry_after)


def _used_up(decision: Decision, limits: Limits) -> TooMany:
    """Name the limit that a recipient was refused for."""
    size = {
        Reason.RATE: limits.messages_per_minute,
        Reason.MONTHLY_MAILS: limits.emails_per_month,
        Reason.STORAGE: limits.storage_bytes,
    }
    return TooMany(
        "No recipient takes this mail at the moment.",
        retry_after=decision.retry_after or _ROOM_SECONDS,
        limit=size.get(decision.reason) if decision.reason else None,
        code=decision.reason,
    )


async def _judge(
    quota: Quota,
    given: str,
    transaction: str,
    octets: int,
    taken: Sequence[Judged],
    *,
    silent: Silent | None,
) -> Judged | None:
    """Judge a recipient; None for what is no address."""
    try:
        recipient = address.mailbox(given, smtputf8=True)
    except Refused:
        return None
    return await quota.recipient(
        recipient, transaction=transaction, octets=octets, taken=taken, silent=silent
    )


def _status(given: str, judged: Judged | None) -> RecipientStatus:
    """Say what became of a recipient, in the words of SMTP."""
    if judged is None:
        return RecipientStatus(given, str(MALFORMED_ADDRESS))
    refused = refusal(judged.decision)
    return RecipientStatus(given, ACCEPTED if refused is None else str(refused))
