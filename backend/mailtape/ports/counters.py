"""Counters of what organisations use, and of what is promised to mail on its way.

A mail is reserved when its recipient is accepted, committed when the mail is safe, released when
its sender went away. A reservation that nobody commits or releases runs out by itself: Postfix
never tells that a transaction was abandoned.

Promises of every implementation:

* `reserve` is one step: of any number of reservations at the same time no more are granted than
  there is room for.
* Every verb may be repeated under its key: the same reservation is granted, counted and given back
  once.
* `commit` always counts, reserved or not, in time or late: the mail is here.
* What is counted is rebuilt from the rows when the counters have forgotten it.
* A transaction that was renamed is found by either name, in every process.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, TypeAlias

from mailtape.domain.errors import Unavailable
from mailtape.domain.ids import OrganisationId
from mailtape.domain.quota import Decision, Usage
from mailtape.domain.tier import Limits

Key: TypeAlias = tuple[str, str]
"""One recipient of one transaction: the transaction's name, the recipient. A plain tuple, which the
garbage collector stops looking at; there may be a hundred thousand of them."""


class NothingNew(Unavailable):
    """What was known was lost a moment ago: what is held holds, and more is granted a moment later.

    This is said at once, of each key that nothing is held for.
    """


class Counters(Protocol):
    """See the module's docstring for what holds of all of these."""

    async def rename(self, transaction: str, became: str, now: datetime) -> None:
        """Learn that what is held under `transaction` will be asked about as `became`.

        `became` is a queue id of Postfix: letters and digits. A name with anything else in it need
        not be found by every process.

        Raises:
            Unavailable: it could not be kept; what was held runs out by itself.
        """

    async def reserve(
        self, organisation_id: OrganisationId, limits: Limits, key: Key, octets: int, now: datetime
    ) -> Decision:
        """Decide on a recipient and, when it is taken, hold room for its mail.

        Raises:
            Unavailable: it cannot be told.
        """

    async def fits(
        self, organisation_id: OrganisationId, limits: Limits, key: Key, octets: int, now: datetime
    ) -> Decision:
        """Decide on a mail that is here whole, by its true size.

        What is held for a mail that fits is that size from now on: the next one must not be
        promised the same room before this one is committed. A mail that nothing is held for any
        more is decided on as a new one.

        Raises:
            Unavailable: it cannot be told.
        """

    async def commit(
        self, organisation_id: OrganisationId, keys: Sequence[Key], octets: int, now: datetime
    ) -> None:
        """Count mails of this size as used, each key once.

        Raises:
            Unavailable: it could not be counted now; the rows will tell of the mail.
        """

    async def release(self, organisation_id: OrganisationId, keys: Sequence[Key]) -> None:
        """Give back what was reserved under these keys and not committed.

        Raises:
            Unavailable: it could not be; it runs out by itself.
        """

    async def usage(self, organisation_id: OrganisationId, now: datetime) -> Usage:
        """Tell what is used and reserved.

        Raises:
            Unavailable: it cannot be told.
        """
