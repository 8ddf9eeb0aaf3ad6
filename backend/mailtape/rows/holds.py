"""Room that is held for mail on its way, where the rows are asked because Redis is not.

A hold is reserved, then committed when its mail is safe, then stored when the mail has rows and is
counted there. A stored hold counts nothing; it is kept so that the same key is known again. One
that was only reserved here is known then, not stored: it may have been committed in Redis.

It stays under the name that it was reserved by, here as in Redis, whatever its transaction is
called later; `JoinedName` leads there.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import cast

from sqlalchemy import (
    Index,
    String,
    Table,
    case,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.orm import Mapped, Session, mapped_column

from mailtape.domain.ids import OrganisationId
from mailtape.rows.base import Digest, Id, Row

_SWEPT_AT_ONCE = 100
_REMEMBERED = timedelta(days=1)
"""Longer than Redis is down without anybody noticing: it has to be told of what was stored then."""


class State(IntEnum):
    """How far the mail of a hold has come."""

    RESERVED = 0
    COMMITTED = 1
    STORED = 2
    KNOWN = 3
    """Its mail was stored before it was committed here; nobody has to be told to count it."""


class Hold(Row):
    """One recipient of one transaction."""

    __tablename__ = "holds"
    __table_args__ = (Index("ix_holds_state", "organisation_id", "state", "expires_at"),)

    organisation_id: Mapped[bytes] = mapped_column(Id, primary_key=True)
    digest: Mapped[bytes] = mapped_column(Digest, primary_key=True)
    state: Mapped[int]
    octets: Mapped[int]
    period: Mapped[str] = mapped_column(String(7))
    """`2026-11`: the month in which it was reserved, then the one in which it was committed."""
    expires_at: Mapped[datetime]


class JoinedName(Row):
    """What a transaction was called before it was called `name`; both hashed."""

    __tablename__ = "joined_names"

    name: Mapped[bytes] = mapped_column(Digest, primary_key=True)
    first: Mapped[bytes] = mapped_column(Digest)
    expires_at: Mapped[datetime] = mapped_column(index=True)


@dataclass(frozen=True, slots=True)
class Totals:
    """What the holds of an organisation come to."""

    committed_emails: int = 0
    """Of the month that was asked about."""
    committed_bytes: int = 0
    reserved_emails: int = 0
    reserved_bytes: int = 0


def name_digest(transaction: str) -> bytes:
    """Hash a transaction's name."""
    return hashlib.sha256(transaction.encode()).digest()


def digest(transaction: str, recipient: str) -> bytes:
    """Name a hold: the same for the door that holds and for the worker that stores."""
    return digest_of(name_digest(transaction), recipient)


def digest_of(transaction: bytes, recipient: str) -> bytes:
    """As `digest`, of a name that is hashed already."""
    return hashlib.sha256(transaction + recipient.encode()).digest()


def find(
    session: Session, organisation_id: OrganisationId, digest: bytes, now: datetime
) -> Hold | None:
    """Read a hold that has not run out."""
    hold = session.get(Hold, (organisation_id, digest))
    return hold if hold is not None and hold.expires_at > now else None


def put(session: Session, hold: Hold) -> Hold:
    """Write a hold, over whatever is there under its name; gives the one that is written."""
    return session.merge(hold)


def live(session: Session, organisation_id: OrganisationId, now: datetime) -> Sequence[Hold]:
    """Read all holds of an organisation that have not run out."""
    return session.scalars(
        select(Hold).where(Hold.organisation_id == organisation_id, Hold.expires_at > now)
    ).all()


def totals(session: Session, organisation_id: OrganisationId, period: str, now: datetime) -> Totals:
    """Add up what counts."""
    emails = bytes_ = reserved_emails = reserved_bytes = 0
    sums = select(Hold.state, Hold.period, func.count(), func.sum(Hold.octets))
    counting = sums.where(
        Hold.organisation_id == organisation_id,
        Hold.state.in_((State.RESERVED, State.COMMITTED)),
        Hold.expires_at > now,
    )
    for state, month, count, octets in session.execute(counting.group_by(Hold.state, Hold.period)):
        if state == State.RESERVED:
            reserved_emails += count
            reserved_bytes += int(octets)
        else:
            emails += count if month == period else 0
            bytes_ += int(octets)
    return Totals(emails, bytes_, reserved_emails, reserved_bytes)


def release(session: Session, organisation_id: OrganisationId, digests: Iterable[bytes]) -> None:
    """Forget those of these that are only reserved."""
    session.execute(
        delete(Hold).where(
            Hold.organisation_id == organisation_id,
            Hold.digest.in_(list(digests)),
            Hold.state == State.RESERVED,
        )
    )


def settle(
    session: Session,
    organisation_id: OrganisationId,
    stored: Sequence[tuple[str, str]],
    now: datetime,
) -> None:
    """Count these no longer, by transaction and recipient: their mail has rows.

    Call it in the transaction that writes those.
    """
    if not stored:
        return
    session.execute(
        update(Hold)
        .where(
            Hold.organisation_id == organisation_id,
            Hold.digest.in_(_digests(session, stored)),
            Hold.state.in_((State.RESERVED, State.COMMITTED)),
        )
        .values(
            state=case((Hold.state == State.COMMITTED, State.STORED), else_=State.KNOWN),
            expires_at=now + _REMEMBERED,
        ),
        execution_options={"synchronize_session": False},
    )


def _digests(session: Session, stored: Sequence[tuple[str, str]]) -> list[bytes]:
    """Name the holds of these, by what each transaction is called and by what it was called."""
    names = [(name_digest(transaction), recipient) for transaction, recipient in stored]
    joined = select(JoinedName.name, JoinedName.first).where(
        JoinedName.name.in_({name for name, _ in names})
    )
    first = {row.name: row.first for row in session.execute(joined)}
    return [
        *(digest_of(name, recipient) for name, recipient in names),
        *(digest_of(first[name], recipient) for name, recipient in names if name in first),
    ]


def remove(session: Session, organisation_id: OrganisationId, digests: Sequence[bytes]) -> None:
    """Forget these altogether. Call it under the organisation's lock.

    Whoever else has read one of them under it means to write it.
    """
    session.execute(
        delete(Hold).where(Hold.organisation_id == organisation_id, Hold.digest.in_(digests))
    )


def remove_unchanged(
    session: Session, organisation_id: OrganisationId, seen: Mapping[bytes, tuple[State, int]]
) -> None:
    """Forget those whose state and size are still as seen. Call it under the organisation's lock.

    A commit that came between the look and this is nowhere else yet; that its mail was stored is
    nothing new of what was seen committed.
    """
    there = session.execute(
        select(Hold.digest, Hold.state, Hold.octets).where(
            Hold.organisation_id == organisation_id, Hold.digest.in_(list(seen))
        )
    )
    same = [
        digest
        for digest, state, octets in there
        if seen[digest] == (state, octets)
        or (seen[digest] == (State.COMMITTED, octets) and state == State.STORED)
    ]
    if same:
        remove(session, organisation_id, same)


def sweep(session: Session, organisation_id: OrganisationId, now: datetime) -> None:
    """Delete some of an organisation's holds that have run out. Call it under its lock."""
    old = session.scalars(
        select(Hold.digest)
        .where(Hold.organisation_id == organisation_id, Hold.expires_at <= now)
        .limit(_SWEPT_AT_ONCE)
    ).all()
    if old:
        remove(session, organisation_id, old)


def join(session: Session, name: bytes, first: bytes, until: datetime, now: datetime) -> None:
    """Remember what a transaction was called before; forget some names that have run out."""
    session.merge(JoinedName(name=name, first=first, expires_at=until))
    old = session.scalars(
        select(JoinedName.name).where(JoinedName.expires_at <= now).limit(_SWEPT_AT_ONCE)
    ).all()
    if old:
        session.execute(delete(JoinedName).where(JoinedName.name.in_(old)))


def join_missing(session: Session, joined: Mapping[bytes, bytes], until: datetime) -> None:
    """Remember names, each with the one before, of which nothing is known yet."""
    if not joined:
        return
    known = set(session.scalars(select(JoinedName.name).where(JoinedName.name.in_(joined))))
    session.add_all(
        JoinedName(name=name, first=first, expires_at=until)
        for name, first in sorted(joined.items())  # in one order, so that nobody waits in a circle
        if name not in known
    )
    session.flush()


def first_name(session: Session, name: bytes) -> bytes | None:
    """Read what a transaction was called before; None when it had no other name."""
    joined = session.get(JoinedName, name)
    return None if joined is None else joined.first


_INSERT = insert(cast("Table", Hold.__table__))


def add_missing(session: Session, organisation_id: OrganisationId, holds: Sequence[Hold]) -> None:
    """Write those holds whose name is not there yet. Call it under the organisation's lock.

    Of two sizes that are reserved under one name, one announced and one true, the larger stays;
    what turns out to be stored counts no longer.
    """
    digests = [hold.digest for hold in holds]
    known = {
        hold.digest: hold
        for hold in session.scalars(
            select(Hold).where(Hold.organisation_id == organisation_id, Hold.digest.in_(digests))
        )
    }
    for hold in holds:
        before = known.get(hold.digest)
        if before is not None and before.state == State.RESERVED:
            before.octets = max(before.octets, hold.octets)
            if hold.state == State.KNOWN:
                before.state = State.KNOWN
    rows = [
        {
            "organisation_id": organisation_id,
            "digest": hold.digest,
            "state": hold.state,
            "octets": hold.octets,
            "period": hold.period,
            "expires_at": hold.expires_at,
        }
        for hold in holds
        if hold.digest not in known
    ]
    if rows:
        session.connection().execute(_INSERT, rows)
