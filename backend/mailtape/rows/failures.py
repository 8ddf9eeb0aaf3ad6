"""Failed tries, one row each, for as long as they count."""

from datetime import datetime

from sqlalchemy import Index, delete, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from mailtape.rows.base import Digest, NumberKey, Row


class Failure(Row):
    """Somebody was wrong once."""

    __tablename__ = "failures"
    __table_args__ = (Index("ix_failures_subject", "subject", "failed_at"),)

    number: Mapped[NumberKey]
    subject: Mapped[bytes] = mapped_column(Digest)
    """A digest of what was tried and by whom."""
    failed_at: Mapped[datetime]
    counts_until: Mapped[datetime] = mapped_column(index=True)


def nth_latest(session: Session, subject: bytes, n: int, since: datetime) -> datetime | None:
    """Read when the n-th latest failure after `since` was; None when there are fewer."""
    return session.scalar(
        select(Failure.failed_at)
        .where(Failure.subject == subject, Failure.failed_at > since)
        .order_by(Failure.failed_at.desc())
        .offset(n - 1)
        .limit(1)
    )


def add(
    session: Session, subjects: list[tuple[bytes, datetime]], now: datetime, most_forgotten: int
) -> None:
    """Write one failure of each (subject, counts until); forget some that count no longer."""
    for subject, counts_until in subjects:
        session.add(Failure(subject=subject, failed_at=now, counts_until=counts_until))
    old = session.scalars(
        select(Failure.number).where(Failure.counts_until <= now).limit(most_forgotten)
    ).all()
    session.execute(delete(Failure).where(Failure.number.in_(old)))


def count(session: Session) -> int:
    """Count all that are kept."""
    return session.scalar(select(func.count()).select_from(Failure)) or 0
