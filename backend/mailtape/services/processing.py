"""Step 5 of a message's way: store what was understood.

Bodies first, then rows, usage, events and search in one transaction, then the queue may forget
the mail. Killed between any two of these, the mail is understood and stored again, and every part
knows what it has already: a message is visible once, with its body, or not yet.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from mailtape.domain.envelope import Delivery, Envelope
from mailtape.mime.pack import Packed, PackedBlob
from mailtape.ports.bodies import Blob, Bodies, Body, BodyKey
from mailtape.rows import retention
from mailtape.rows.database import Database
from mailtape.rows.deposit import Deposit, deposit

_KEPT_AT_ONCE = 32 * 2**20
"""Octets of bodies that are handed to the store at a time, or one body. Those of a large mail to
many organisations are gigabytes, and meanwhile others wait for a 250 or a change."""

_DEPOSITED_AT_ONCE = 100
"""Messages a transaction. A mail to a thousand recipients must not hold up whoever waits for a 250
or a change; each message is whole with its event, so its neighbours may come in the next one."""


@dataclass(frozen=True, slots=True)
class Understood:
    """An accepted mail and what the worker made of its bytes."""

    envelope: Envelope
    packed: Packed


async def store(
    database: Database, bodies: Bodies, mails: Sequence[Understood], *, now: datetime
) -> int:
    """Make mails visible; all of them are durable on return.

    Returns how many messages there are that were not there before.

    Raises:
        Unavailable: a store is down or full; some may have become visible, the same call may be
            made again.
    """
    kept = [body for mail in mails for body in _bodies(mail)]
    for some in _by_octets(kept):
        await bodies.keep(some)
    deposits = [item for mail in mails for item in _deposits(mail)]
    stored = 0
    named: set[BodyKey] = set()
    for start in range(0, len(deposits), _DEPOSITED_AT_ONCE):
        chunk = deposits[start : start + _DEPOSITED_AT_ONCE]
        new = await database.write_bulk(deposit, chunk, now)
        stored += len(new)
        named.update(BodyKey(i.envelope.ingest_id, i.delivery.organisation_id) for i in new)
    await _forget_repeats(database, bodies, [body.key for body in kept if body.key not in named])
    return stored


async def is_stored(database: Database, envelope: Envelope) -> bool:
    """Tell whether every organisation has a message of this mail; not when it deleted that since.

    Raises:
        Unavailable: it cannot be told.
    """
    organisations = {delivery.organisation_id for delivery in envelope.deliveries}
    keys = [BodyKey(envelope.ingest_id, organisation_id) for organisation_id in organisations]
    return not await database.read(retention.without_rows, keys)


async def _forget_repeats(database: Database, bodies: Bodies, doubtful: Sequence[BodyKey]) -> None:
    """Delete bodies of mail that turned out to be a second delivery: no message names them."""
    if doubtful:
        await bodies.delete(await database.read(retention.without_rows, doubtful))


def _bodies(mail: Understood) -> list[Body]:
    """Give every organisation that received the mail a copy of its own."""
    packed = mail.packed
    organisations = dict.fromkeys(d.organisation_id for d in mail.envelope.deliveries)
    return [
        Body(
            key=BodyKey(mail.envelope.ingest_id, organisation_id),
            raw=_blob(packed.raw),
            content=_blob(packed.content),
            attachments=tuple((name, _blob(data)) for name, data in packed.attachments),
        )
        for organisation_id in organisations
    ]


def _by_octets(bodies: Sequence[Body]) -> Iterator[Sequence[Body]]:
    """Part bodies, in their order, so that no part is larger than what is kept at once."""
    start, octets = 0, 0
    for end, body in enumerate(bodies):
        blobs = [body.raw, body.content, *(blob for _, blob in body.attachments)]
        size = sum(len(blob.zstd) for blob in blobs)
        if octets + size > _KEPT_AT_ONCE and end > start:
            yield bodies[start:end]
            start, octets = end, 0
        octets += size
    yield bodies[start:]


def _blob(packed: PackedBlob) -> Blob:
    return Blob(zstd=packed.zstd, size=packed.size, sha256=packed.sha256)


def _deposits(mail: Understood) -> list[Deposit]:
    envelope = mail.envelope
    return [
        Deposit(
            id=(identity := envelope.message_id(delivery)),
            dedupe_key=_dedupe_key(mail, delivery) or identity,
            delivery=delivery,
            envelope=envelope,
            summary=mail.packed.summary,
            unparsed=mail.packed.unparsed,
        )
        for delivery in envelope.deliveries
    ]


def _dedupe_key(mail: Understood, delivery: Delivery) -> bytes | None:
    """Name what a second delivery of the same mail shares with the first; None for direct mail.

    Postfix keeps its queue id when it tries again; an HTTP client names its request itself.
    """
    envelope = mail.envelope
    sender_key = envelope.queue_id or envelope.idempotency_key
    if not sender_key:
        return None
    facts = (envelope.protocol, sender_key, delivery.recipient)
    return hashlib.sha256("\n".join(facts).encode() + mail.packed.raw.sha256).digest()
