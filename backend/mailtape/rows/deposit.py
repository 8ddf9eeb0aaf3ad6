"""Depositing a batch of messages with everything that is committed with them.

In one transaction, for every organisation in sorted order: which of these are new, the next
numbers of its sequence, the rows, their events, their search entries, the month's usage. So a
message is visible exactly when its event is, it is counted exactly once, and an organisation's
events appear in order and without holes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, cast

from sqlalchemy import Table, insert, select, update
from sqlalchemy.orm import Session

from mailtape.domain.envelope import Delivery, Envelope
from mailtape.domain.ids import MessageId, OrganisationId
from mailtape.domain.message import Summary
from mailtape.rows import organisations, search
from mailtape.rows.base import from_us
from mailtape.rows.events import MESSAGE_STORED, Event
from mailtape.rows.messages import Message, MessageKey
from mailtape.rows.usage import Usage

_MESSAGES = cast("Table", Message.__table__)
_EVENTS = cast("Table", Event.__table__)
"""The tables themselves: Core statements on the mapped classes' columns, without the ORM's cost."""


@dataclass(frozen=True, slots=True)
class Deposit:
    """One recipient's message, ready to become a row."""

    id: MessageId
    dedupe_key: bytes
    delivery: Delivery
    envelope: Envelope
    summary: Summary
    unparsed: bool


def deposit(
    session: Session, deposits: Sequence[Deposit], now: datetime
) -> dict[OrganisationId, int]:
    """Store what is not stored yet; tell how many messages each organisation got.

    A mail that was deposited before, or deleted by its owner meanwhile, is passed over: what comes
    after acceptance may happen twice.
    """
    by_organisation = sorted(deposits, key=_organisation)
    return {
        organisation_id: _deposit_for(session, organisation_id, list(group), now)
        for organisation_id, group in groupby(by_organisation, key=_organisation)
    }


def _organisation(item: Deposit) -> OrganisationId:
    return item.delivery.organisation_id


def _deposit_for(
    session: Session, organisation_id: OrganisationId, deposits: list[Deposit], now: datetime
) -> int:
    new = _new(session, organisation_id, deposits)
    if not new:
        return 0
    first = organisations.take_sequences(
        session, organisation_id, len(new), sum(item.envelope.size for item in new)
    )
    numbered = list(enumerate(new, start=first))
    session.execute(insert(_MESSAGES), [_message(s, item) for s, item in numbered])
    session.execute(insert(_EVENTS), [_event(s, item, now) for s, item in numbered])
    search.add(session, organisation_id, ((i.id, i.summary.search_text) for i in new))
    for period, emails in Counter(_period(item) for item in new).items():
        _count(session, organisation_id, period, emails)
    return len(new)


def _new(
    session: Session, organisation_id: OrganisationId, deposits: list[Deposit]
) -> list[Deposit]:
    """Leave out what has a row or had one, and repeats within the batch."""
    wanted = {item.dedupe_key: item for item in reversed(deposits)}
    for table in (Message, MessageKey):
        known = session.scalars(
            select(table.dedupe_key).where(
                table.organisation_id == organisation_id, table.dedupe_key.in_(wanted)
            )
        )
        for key in known.all():
            del wanted[key]
    return [item for item in deposits if wanted.get(item.dedupe_key) is item]


def _message(sequence: int, item: Deposit) -> dict[str, Any]:
    envelope, summary = item.envelope, item.summary
    return {
        "id": item.id,
        "organisation_id": item.delivery.organisation_id,
        "sequence": sequence,
        "ingest_id": envelope.ingest_id,
        "dedupe_key": item.dedupe_key,
        "recipient": item.delivery.recipient,
        "mailbox": item.delivery.mailbox,
        "mail_from": envelope.mail_from,
        "protocol": envelope.protocol,
        "client_address": envelope.client_address,
        "helo": envelope.helo,
        "tls": envelope.tls,
        "from_name": summary.sender.name,
        "from_address": summary.sender.address,
        "to_mailboxes": [[mailbox.name, mailbox.address] for mailbox in summary.to],
        "subject": summary.subject,
        "snippet": summary.snippet,
        "attachments": summary.attachments,
        "size": envelope.size,
        "received_at": from_us(envelope.accepted_us),
        "unparsed": item.unparsed,
        "is_read": False,
        "tags": [],
    }


def _event(sequence: int, item: Deposit, now: datetime) -> dict[str, Any]:
    return {
        "organisation_id": item.delivery.organisation_id,
        "sequence": sequence,
        "kind": MESSAGE_STORED,
        "message_id": item.id,
        "period": _period(item),
        "created_at": now,
    }


def _period(item: Deposit) -> str:
    accepted_at = item.envelope.accepted_at
    return f"{accepted_at.year:04}-{accepted_at.month:02}"


def _count(session: Session, organisation_id: OrganisationId, period: str, emails: int) -> None:
    counted = session.execute(
        update(Usage)
        .where(Usage.organisation_id == organisation_id, Usage.period == period)
        .values(emails=Usage.emails + emails)
    )
    if counted.rowcount == 0:  # type: ignore[attr-defined]  # an UPDATE's result has one
        session.add(Usage(organisation_id=organisation_id, period=period, emails=emails))
