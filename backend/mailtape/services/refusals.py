"""What was refused, told to whose address it was: one event an address, reason and minute.

The doors only count; nothing is written while a sender waits. What has gathered becomes events once
its minute is over, or when the process ends: a minute in which a process ends and the next one
starts may have two events, whose counts add up. A process that is killed forgets up to a minute of
it: these are news, not accounts.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby, islice
from typing import NamedTuple

from mailtape.domain.event import RefusedMail
from mailtape.domain.ids import OrganisationId
from mailtape.rows import events
from mailtape.rows.database import Database
from mailtape.services.wakeups import Wakeups

_MOST_GATHERED = 10_000
"""Different ones that wait to be written; what is beyond is refused without news of it."""
_WRITTEN_AT_ONCE = 100
"""A transaction: whoever waits for a 250 waits for one of these at the most."""


class _What(NamedTuple):
    organisation_id: OrganisationId
    minute: int
    address: str
    reason: str


class Refusals:
    """Gathers refusals of one process."""

    def __init__(self) -> None:
        self._gathered: Counter[_What] = Counter()

    def note(
        self, organisation_id: OrganisationId, address: str, reason: str, now: datetime
    ) -> None:
        """Count one refusal of an address that belongs to somebody."""
        what = _What(organisation_id, int(now.timestamp()) // 60, address, reason)
        if what in self._gathered or len(self._gathered) < _MOST_GATHERED:
            self._gathered[what] += 1

    async def flush(
        self, database: Database, wakeups: Wakeups, now: datetime, *, ending: bool = False
    ) -> int:
        """Write the events of the minutes that are over; tell how many.

        `ending`, when no door is open any more, writes the minute that is not over as well.

        Raises:
            Unavailable: they go on waiting here.
        """
        this_minute = int(now.timestamp()) // 60
        over = sorted(what for what in self._gathered if ending or what.minute < this_minute)
        for organisation_id, whats in groupby(over, key=lambda what: what.organisation_id):
            for some in _in_lists(whats):
                await self._write(database, organisation_id, some, now)
                wakeups.announce(organisation_id)
        return len(over)

    async def _write(
        self, database: Database, organisation_id: OrganisationId, whats: list[_What], now: datetime
    ) -> None:
        # Taken out first: who is cancelled meanwhile cannot tell whether they were written, and
        # what is refused meanwhile counts anew.
        taken = {what: self._gathered.pop(what) for what in whats}
        refused = [_refused(what, count) for what, count in taken.items()]
        try:
            await database.write_bulk(events.add_refusals, organisation_id, refused, now)
        except Exception:
            self._gathered.update(taken)
            raise


def _in_lists(whats: Iterator[_What]) -> Iterator[list[_What]]:
    while some := list(islice(whats, _WRITTEN_AT_ONCE)):
        yield some


def _refused(what: _What, count: int) -> RefusedMail:
    minute = datetime.fromtimestamp(what.minute * 60, UTC)
    return RefusedMail(what.address, what.reason, minute, count)
