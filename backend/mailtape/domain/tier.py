"""Tiers: what an organisation may use. Rows in the database, not constants in code.

A limit of None means none; a feature that a row does not name is off.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Feature(StrEnum):
    """What a tier may switch on."""

    API = "api"
    WEBHOOKS = "webhooks"
    PRIORITY_SUPPORT = "priority_support"
    CATCH_ALL = "catch_all"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of each an organisation may use."""

    emails_per_month: int | None = None
    storage_bytes: int | None = None
    addresses: int | None = None
    members: int | None = None
    api_calls_per_month: int | None = None
    message_bytes: int | None = None
    retention_days: int | None = None
    messages_per_minute: int | None = None
    storage_is_hard: bool = False
    """Whether full storage is refused for good (550) instead of for now (452)."""


NO_LIMITS: Final = Limits()
"""Where nothing is limited nothing needs to be counted."""


@dataclass(frozen=True, slots=True)
class Tier:
    """One offer."""

    name: str
    limits: Limits
    features: frozenset[Feature]


UNLIMITED = Tier("unlimited", NO_LIMITS, frozenset(Feature))
"""Of organisation `local` and of whoever an administrator puts there."""

FREE = Tier(
    "free",
    Limits(
        emails_per_month=1_000,
        storage_bytes=256 * 2**20,
        addresses=5,
        members=3,
        api_calls_per_month=50_000,
        message_bytes=10 * 2**20,
        retention_days=7,
        messages_per_minute=60,
    ),
    frozenset({Feature.API, Feature.CATCH_ALL}),
)
"""Where every organisation but `local` starts; the row decides once it is there."""
