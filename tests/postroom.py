"""Delivering mail into an installation: understood, stored and announced as a worker does it."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from email.message import EmailMessage

from fakes import a_delivery, an_envelope
from installation import Installation
from mailtape.domain import ids
from mailtape.domain.envelope import Envelope
from mailtape.domain.ids import IngestId, OrganisationId
from mailtape.domain.message import Mailbox, Summary
from mailtape.mime.pack import pack
from mailtape.mime.understand import understand
from mailtape.rows.deposit import Deposit, deposit
from mailtape.services import processing

QA = "qa@mail.example.com"


def a_mail(
    subject: str = "Your order", text: str = "Thank you for it.", html: str | None = None
) -> bytes:
    """Write a plain, valid mail."""
    mail = EmailMessage()
    mail["From"] = "Shop <shop@example.org>"
    mail["To"] = QA
    mail["Subject"] = subject
    mail.set_content(text)
    if html is not None:
        mail.add_alternative(html, subtype="html")
    return mail.as_bytes().replace(b"\n", b"\r\n")


async def deliver(
    installation: Installation,
    organisation_id: OrganisationId,
    raw: bytes | None = None,
    *,
    recipients: Sequence[str] = (QA,),
    strangers: Sequence[tuple[str, OrganisationId]] = (),
    accepted_us: int | None = None,
    transaction: str = "",
) -> list[str]:
    """Store a mail and tell those who wait; gives the ids of the organisation's messages.

    `strangers` are recipients of the same mail in other organisations.
    """
    raw = a_mail() if raw is None else raw
    accepted_us = accepted_us or time.time_ns() // 1000
    envelope = an_envelope(
        raw,
        ingest_id=IngestId(ids.new_id(accepted_us // 1000)),
        accepted_us=accepted_us,
        transaction=transaction,
        deliveries=(
            *(a_delivery(recipient, organisation_id) for recipient in recipients),
            *(a_delivery(recipient, stranger) for recipient, stranger in strangers),
        ),
    )
    await deliver_envelope(installation, envelope, raw)
    return [
        ids.to_text(ids.message_id(accepted_us // 1000, envelope.ingest_id, recipient))
        for recipient in recipients
    ]


async def deliver_envelope(installation: Installation, envelope: Envelope, raw: bytes) -> None:
    """Store a mail that was accepted and tell those who wait."""
    parts = installation.parts
    await processing.store(
        parts.database,
        parts.bodies,
        [processing.Understood(envelope, pack(raw, understand(raw)))],
        now=datetime.now(UTC),
    )
    parts.wakeups.announce_all({each.organisation_id for each in envelope.deliveries})


async def deposit_many(
    installation: Installation,
    organisation_id: OrganisationId,
    count: int,
    *,
    recipient: str = QA,
    words: str = "thank you for your order",
    first_us: int = 1_700_000_000_000_000,
) -> list[bytes]:
    """Store rows without bodies, a millisecond apart; gives their ids, oldest first."""
    deposits = []
    for number in range(count):
        envelope = an_envelope(
            ingest_id=IngestId(ids.new_id(first_us // 1000 + number)),
            accepted_us=first_us + number * 1000,
            deliveries=(a_delivery(recipient, organisation_id),),
        )
        identity = ids.message_id(envelope.accepted_us // 1000, envelope.ingest_id, recipient)
        summary = Summary(
            sender=Mailbox("Shop", "shop@example.org"),
            to=(Mailbox("", recipient),),
            subject=f"Order {number}",
            snippet="Thank you",
            attachments=0,
            search_text=words,
        )
        deposits.append(
            Deposit(identity, identity, envelope.deliveries[0], envelope, summary, unparsed=False)
        )
    await installation.parts.database.write(deposit, deposits, datetime.now(UTC))
    return [item.id for item in deposits]
