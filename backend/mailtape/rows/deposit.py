"""Depositing a batch of messages with everything that is committed with them.

In one transaction, for every organisation in sorted order: which of these are new, the next
numbers of its sequence, the rows, their events, their search entries, the month's usage, the end
of what was held for them. So a message is visible exactly when its event is, it is counted exactly
once, and an organisation's events appear in order and without holes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import groupby
from typing import Any, cast

from sqlalchemy import Table, bindparam, exists, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from mailtape.domain.envelope import Delivery, Envelope
from mailtape.domain.ids import MessageId, OrganisationId
from mailtape.domain.message import Summary
from mailtape.rows import holds, organisations, search, usage
from mailtape.rows.base import from_us
from mailtape.rows.bulk import insert_rows
from mailtape.rows.events import MESSAGE_STORED, Event
from mailtape.rows.messages import HELO_CHARS, Message, MessageKey

_MESSAGES = cast("Table", Message.__table__)
_EVENTS = cast("Table", Event.__table__)
_ANY = select(
    exists().where(MessageKey.organisation_id == bindparam("of")),
    exists().where(holds.Hold.organisation_id == bindparam("of")),
)
"""Whether an organisation has deleted messages of late, and whether anything is held for it: most
have and hold nothing, and this is cheaper than to look for each."""


_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Deposit:
    """One recipient's message, ready to become a row."""

    id: MessageId
    dedupe_key: bytes
    delivery: Delivery
    envelope: Envelope
    summary: Summary
    unparsed: bool


def deposit(session: Session, deposits: Sequence[Deposit], now: datetime) -> list[Deposit]:
    """Store what is not stored yet, and give it back. Call it as the whole of a transaction.

    A mail that was deposited before, or deleted by its owner meanwhile, is passed over: what comes
    after acceptance may happen twice.

    Nearly every batch is new, and asking for each key costs as much as inserting it: so all is
    inserted first, and begun anew, asking, when a key turns out to be taken.
    """
    try:
        return _deposited(session, deposits, now, asks=False)
    except IntegrityError:
        session.rollback()
    return _deposited(session, deposits, now, asks=True)


def _deposited(
    session: Session, deposits: Sequence[Deposit], now: datetime, *, asks: bool
) -> list[Deposit]:
    by_organisation = sorted(deposits, key=_organisation)
    return [
        stored
        for organisation_id, group in groupby(by_organisation, key=_organisation)
        for stored in _deposited_for(session, organisation_id, list(group), now, asks=asks)
    ]


def _organisation(item: Deposit) -> OrganisationId:
    return item.delivery.organisation_id


def _deposited_for(
    session: Session,
    organisation_id: OrganisationId,
    deposits: list[Deposit],
    now: datetime,
    *,
    asks: bool,
) -> list[Deposit]:
    """Store one organisation's part of the batch, and hold nothing for it any longer.

    Repeats too: what was counted for a second delivery of the same mail will get no row.
    """
    last = organisations.lock_sequence(session, organisation_id)
    has_deleted, has_holds = session.connection().execute(_ANY, {"of": organisation_id}).one()
    new = _distinct(deposits)
    if asks or has_deleted:
        new = _new(session, organisation_id, new)
    _insert(session, organisation_id, last, new, now)
    if has_holds:
        transactions = [
            (item.envelope.transaction, item.delivery.recipient)
            for item in deposits
            if item.envelope.transaction
        ]
        holds.settle(session, organisation_id, transactions, now)
    return new


def _distinct(deposits: list[Deposit]) -> list[Deposit]:
    """Leave out repeats within the batch."""
    first: dict[bytes, Deposit] = {}
    for item in deposits:
        first.setdefault(item.dedupe_key, item)
    return list(first.values())


def _new(
    session: Session, organisation_id: OrganisationId, distinct: list[Deposit]
) -> list[Deposit]:
    """Leave out what has a row or had one."""
    keys = [item.dedupe_key for item in distinct]
    known: set[bytes] = set()
    for table in (Message, MessageKey):
        known.update(
            session.scalars(
                select(table.dedupe_key).where(
                    table.organisation_id == organisation_id, table.dedupe_key.in_(keys)
                )
            )
        )
    return [item for item in distinct if item.dedupe_key not in known]


def _insert(
    session: Session,
    organisation_id: OrganisationId,
    last: int,
    new: list[Deposit],
    now: datetime,
) -> None:
    if not new:
        return
    organisations.take_sequences(
        session, organisation_id, len(new), sum(item.envelope.size for item in new)
    )
    numbered = list(enumerate(new, start=last + 1))
    connection = session.connection()
    insert_rows(connection, _MESSAGES, [_message(number, item) for number, item in numbered])
    insert_rows(connection, _EVENTS, [_event(number, item, now) for number, item in numbered])
    search.add(session, organisation_id, ((item.id, _words(item)) for item in new))
    for period, emails in Counter(_period(item) for item in new).items():
        usage.add(session, organisation_id, period, emails=emails)


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
        "helo": envelope.helo[:HELO_CHARS],
        "tls": envelope.tls,
        "queue_id": envelope.queue_id,
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


def _words(item: Deposit) -> str:
    """Say what a message is found by: the envelope too, which knows what the header does not."""
    return f"{item.delivery.recipient} {item.envelope.mail_from} {item.summary.search_text}"


def _event(sequence: int, item: Deposit, now: datetime) -> dict[str, Any]:
    return {
        "organisation_id": item.delivery.organisation_id,
        "sequence": sequence,
        "kind": MESSAGE_STORED,
        "message_id": item.id,
        "period": _period(item),
        "created_at": now,
        "held": _held(item),
    }


def _held(item: Deposit) -> bytes | None:
    transaction = item.envelope.transaction
    return holds.digest(transaction, item.delivery.recipient) if transaction else None


def _period(item: Deposit) -> str:
    return _month_of(item.envelope.accepted_us // _DAY_US)


@lru_cache(maxsize=64)  # what is stored was accepted today, or a few days ago at the most
def _month_of(day: int) -> str:
    """Name the month of a day that is counted from 1970."""
    return from_us(day * _DAY_US).strftime("%Y-%m")
