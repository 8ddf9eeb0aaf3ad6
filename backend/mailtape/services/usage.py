"""What an organisation has used this month, and of how much."""

from dataclasses import dataclass
from datetime import datetime

from mailtape.domain.errors import NotFound
from mailtape.domain.ids import OrganisationId
from mailtape.domain.tier import Limits
from mailtape.rows import organisations, tiers, usage
from mailtape.rows.database import Database, Session


@dataclass(frozen=True, slots=True)
class Report:
    """One month's figures beside the limits of the tier; a limit of None means none."""

    period: str
    """`2026-11`, in UTC."""
    emails: int
    storage_bytes: int
    """What is kept now, whenever it came."""
    api_calls: int
    limits: Limits


async def report(database: Database, organisation_id: OrganisationId, *, now: datetime) -> Report:
    """Report on the month that `now` lies in.

    Raises:
        NotFound: there is no such organisation.
    """
    return await database.read(_report, organisation_id, f"{now:%Y-%m}")


def _report(session: Session, organisation_id: OrganisationId, period: str) -> Report:
    organisation = organisations.find(session, organisation_id)
    if organisation is None:
        raise NotFound("There is no such organisation.")
    tier = tiers.find(session, organisation.tier)
    month = usage.find(session, organisation_id, period)
    return Report(
        period=period,
        emails=month.emails if month else 0,
        storage_bytes=organisation.storage_bytes,
        api_calls=month.api_calls if month else 0,
        limits=tier.limits if tier else Limits(),
    )
