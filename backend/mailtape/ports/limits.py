"""Limits on failures: how often somebody may be wrong before they have to wait.

Only failures count; a success counts nothing and forgives nothing. A failure counts for as long
as the limit's window, from its own moment on.

Promises of every implementation:

* After `count` has returned, `check` sees the failure, in every process.
* `check` changes nothing.
* Subjects are kept hashed: the store never holds an address or an e-mail in clear.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol


@dataclass(frozen=True, slots=True)
class FailureLimit:
    """How many failures of one subject are borne within a window."""

    kind: str
    """What is tried and whose failures are counted: `sign-in/account`."""
    subject: str
    """Which account, which client address."""
    most: int
    window: timedelta


class FailureLimits(Protocol):
    """See the module's docstring for what holds of all of these."""

    async def check(self, limits: Sequence[FailureLimit], now: datetime) -> None:
        """Pass when every limit has room for another failure.

        Raises:
            TooMany: one has not; `retry_after` says when it will.
        """

    async def count(self, limits: Sequence[FailureLimit], now: datetime) -> None:
        """Count one failure against each."""
