"""Limits on failures in rows: exact, and the same in every process on the database.

One read to check, one small transaction to count. A failed sign-in costs an Argon2 hash, so the
transaction is not what an attacker would load us with.
"""

import hashlib
import math
from collections.abc import Sequence
from datetime import datetime

from mailtape.domain.errors import TooMany
from mailtape.ports.limits import FailureLimit
from mailtape.rows import failures
from mailtape.rows.database import Database, Session

_FORGOTTEN_AT_ONCE = 100


class SqlFailureLimits:
    """`ports.limits.FailureLimits` over `rows.failures`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check(self, limits: Sequence[FailureLimit], now: datetime) -> None:
        """Pass when every limit has room for another failure; see the port."""
        await self._database.read(_check, limits, now)

    async def count(self, limits: Sequence[FailureLimit], now: datetime) -> None:
        """Count one failure against each; see the port."""
        subjects = [(_digest(limit), now + limit.window) for limit in limits]
        await self._database.write(failures.add, subjects, now, _FORGOTTEN_AT_ONCE)


def _check(session: Session, limits: Sequence[FailureLimit], now: datetime) -> None:
    for limit in limits:
        oldest = failures.nth_latest(session, _digest(limit), limit.most, now - limit.window)
        if oldest is not None:
            wait = (oldest + limit.window - now).total_seconds()
            raise TooMany(
                "Too many failed tries.", retry_after=max(1, math.ceil(wait)), limit=limit.most
            )


def _digest(limit: FailureLimit) -> bytes:
    return hashlib.sha256(f"{limit.kind}\0{limit.subject}".encode()).digest()
