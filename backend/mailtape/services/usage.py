"""What an organisation has used this month, and of how much."""

from collections import Counter
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


class ApiCalls:
    """API calls of this process that are not in rows yet.

    A row written for each call would make every read a synced write, so calls gather here and are
    added now and then; a process that is killed forgets a few seconds of them.
    """

    def __init__(self) -> None:
        self._pending: Counter[tuple[OrganisationId, str]] = Counter()

    def count(self, organisation_id: OrganisationId, now: datetime) -> None:
        """Count one call."""
        self._pending[organisation_id, f"{now:%Y-%m}"] += 1

    def pending(self, organisation_id: OrganisationId, period: str) -> int:
        """Tell how many calls of an organisation are not in rows yet."""
        return self._pending[organisation_id, period]

    async def flush(self, database: Database) -> int:
        """Add what has gathered to the rows; tell how many calls that were.

        Raises:
            Unavailable: the calls go on waiting here.
        """
        calls, self._pending = self._pending, Counter()
        if not calls:
            return 0
        try:
            await database.write_bulk(_add_calls, calls)
        except Exception:
            self._pending.update(calls)
            raise
        return calls.total()


def _add_calls(session: Session, calls: Counter[tuple[OrganisationId, str]]) -> None:
    for (organisation_id, period), count in sorted(calls.items()):
        usage.add(session, organisation_id, period, api_calls=count)


async def report(
    database: Database, calls: ApiCalls, organisation_id: OrganisationId, *, now: datetime
) -> Report:
    """Report on the month that `now` lies in.

    Raises:
        NotFound: there is no such organisation.
    """
    period = f"{now:%Y-%m}"
    pending = calls.pending(organisation_id, period)
    return await database.read(_report, organisation_id, period, pending)


def _report(
    session: Session, organisation_id: OrganisationId, period: str, pending_calls: int
) -> Report:
    organisation = organisations.find(session, organisation_id)
    if organisation is None:
        raise NotFound("There is no such organisation.")
    tier = tiers.find(session, organisation.tier)
    month = usage.find(session, organisation_id, period)
    return Report(
        period=period,
        emails=month.emails if month else 0,
        storage_bytes=organisation.storage_bytes,
        api_calls=(month.api_calls if month else 0) + pending_calls,
        limits=tier.limits if tier else Limits(),
    )
