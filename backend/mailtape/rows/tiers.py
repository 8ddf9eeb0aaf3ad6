"""Tiers, as administrators set them."""

import dataclasses
from typing import Any

from sqlalchemy import JSON, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from mailtape.domain.tier import Feature, Limits, Tier
from mailtape.rows.base import Row


class TierRow(Row):
    """One tier; its limits and features as documents, so that a new one needs no migration."""

    __tablename__ = "tiers"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    limits: Mapped[dict[str, Any]] = mapped_column(JSON)
    features: Mapped[list[str]] = mapped_column(JSON)


def ensure(session: Session, tier: Tier) -> None:
    """Write a tier unless there is one of its name: an administrator's change is kept."""
    if session.get(TierRow, tier.name) is None:
        limits = {k: v for k, v in dataclasses.asdict(tier.limits).items() if v is not None}
        session.add(TierRow(name=tier.name, limits=limits, features=sorted(tier.features)))


def find(session: Session, name: str) -> Tier | None:
    """Read a tier; limits and features that this release does not know are passed over."""
    row = session.scalar(select(TierRow).where(TierRow.name == name))
    if row is None:
        return None
    known = {field.name for field in dataclasses.fields(Limits)}
    return Tier(
        name=row.name,
        limits=Limits(**{k: v for k, v in row.limits.items() if k in known}),
        features=frozenset(Feature(f) for f in row.features if f in set(Feature)),
    )
