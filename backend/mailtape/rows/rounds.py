"""Whose turn a job is that all processes of a fleet have and one at a time shall do.

A round is taken, not held: who has taken it and dies, or hangs, is followed by whoever asks first
when the next one is due. So a round that takes longer than that goes on beside the next one, and
every job must bear it.
"""

from datetime import datetime, timedelta

from sqlalchemy import String, or_, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from mailtape.rows.base import Row, changed


class Round(Row):
    """When a job is due next."""

    __tablename__ = "rounds"

    job: Mapped[str] = mapped_column(String(50), primary_key=True)
    due_at: Mapped[datetime]


def take(session: Session, job: str, now: datetime, until_next: timedelta) -> bool:
    """Take the round that is due, if one is and nobody else has taken it."""
    next_at = now + until_next
    due = or_(Round.due_at <= now, Round.due_at > next_at)  # later still: a clock was wrong then
    if changed(session, update(Round).where(Round.job == job, due).values(due_at=next_at)):
        return True
    if session.get(Round, job) is not None:
        return False
    session.add(Round(job=job, due_at=next_at))
    return True
