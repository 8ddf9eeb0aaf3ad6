"""Step 3 of a message's way: keep it. What 250 and 202 stand on.

Every door ends here, and nowhere else is mail accepted.
"""

from collections.abc import Sequence

from mailtape.domain.envelope import Delivery, Envelope, Protocol
from mailtape.domain.ids import IngestId, new_id
from mailtape.metrics import MESSAGES_ACCEPTED
from mailtape.ports.queue import Queue


async def accept(
    queue: Queue,
    raw: bytes,
    *,
    now_us: int,
    protocol: Protocol,
    mail_from: str,
    deliveries: Sequence[Delivery],
    client_address: str = "",
    helo: str = "",
    tls: str = "",
    queue_id: str = "",
    idempotency_key: str = "",
    transaction: str = "",
) -> Envelope:
    """Make the envelope of a mail and queue both, durably.

    When it returns, the sender may be told that the mail is ours. When it raises, the sender keeps
    the mail and must be told to try again; it may still appear, once.

    Raises:
        StoreFull: the queue has reached its bound, or the disk is full.
        Unavailable: it could not be made certain.
    """
    envelope = Envelope(
        ingest_id=IngestId(new_id(now_us // 1000)),
        accepted_us=now_us,
        protocol=protocol,
        mail_from=mail_from,
        deliveries=tuple(deliveries),
        size=len(raw),
        client_address=client_address,
        helo=helo,
        tls=tls,
        queue_id=queue_id,
        idempotency_key=idempotency_key,
        transaction=transaction,
    )
    await queue.put(envelope, raw)
    MESSAGES_ACCEPTED.labels(protocol).inc(len(envelope.deliveries))
    return envelope
