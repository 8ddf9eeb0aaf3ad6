"""What an organisation has used, by calendar month in UTC."""

from collections.abc import Iterable

from sqlalchemy import String, bindparam, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from mailtape.domain.ids import OrganisationId
from mailtape.rows.base import Id, Row


class Usage(Row):
    """One organisation's month."""

    __tablename__ = "usage"

    organisation_id: Mapped[bytes] = mapped_column(Id, primary_key=True)
    period: Mapped[str] = mapped_column(String(7), primary_key=True)
    """`2026-11`: the month in which the mail was accepted."""
    emails: Mapped[int] = mapped_column(default=0)
    """Messages stored; deleting one does not give it back."""
    emails_forgotten: Mapped[int] = mapped_column(default=0)
    """How many of them no event tells of any more: `emails` less this is a count of events."""
    api_calls: Mapped[int] = mapped_column(default=0)


_ADD = (
    update(Usage)
    .where(Usage.organisation_id == bindparam("of"), Usage.period == bindparam("month"))
    .values(
        emails=Usage.emails + bindparam("mails"), api_calls=Usage.api_calls + bindparam("calls")
    )
)


def find(session: Session, organisation_id: OrganisationId, period: str) -> Usage | None:
    """Read a month; None when nothing was used in it."""
    return session.get(Usage, (organisation_id, period))


def emails(
    session: Session, organisation_ids: Iterable[OrganisationId], period: str
) -> dict[bytes, int]:
    """Read the mails of a month of those organisations that have used anything in it."""
    found = session.execute(
        select(Usage.organisation_id, Usage.emails).where(
            Usage.organisation_id.in_(organisation_ids), Usage.period == period
        )
    )
    return dict(found.all())


def add(
    session: Session,
    organisation_id: OrganisationId,
    period: str,
    *,
    emails: int = 0,
    api_calls: int = 0,
) -> None:
    """Add to a month, which begins with its first use."""
    month = {"of": organisation_id, "month": period, "mails": emails, "calls": api_calls}
    if not session.connection().execute(_ADD, month).rowcount:
        session.add(
            Usage(
                organisation_id=organisation_id, period=period, emails=emails, api_calls=api_calls
            )
        )
