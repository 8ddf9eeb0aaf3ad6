"""A consumer on real stores in a temporary folder."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from embedded import Stores, open_stores
from mailtape.data_folder import DataFolder
from mailtape.domain.ids import OrganisationId, new_id
from mailtape.domain.tier import UNLIMITED
from mailtape.rows import organisations, schema, tiers
from mailtape.rows.database import Session


@dataclass(frozen=True)
class House:
    stores: Stores
    organisation_id: OrganisationId


def _organisation(session: Session, organisation_id: OrganisationId) -> None:
    tiers.ensure(session, UNLIMITED)
    session.flush()
    session.add(
        organisations.Organisation(
            id=organisation_id,
            slug="local",
            name="Local",
            tier="unlimited",
            created_at=datetime.now(UTC),
        )
    )


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    folder = DataFolder(tmp_path)
    schema.migrate(folder.rows)
    stores = open_stores(folder, queue_max_bytes=2**30)
    organisation_id = OrganisationId(new_id(0))
    await stores.database.write(_organisation, organisation_id)
    yield House(stores, organisation_id)
    stores.close()
