"""An installation on each of the databases that rows can be on."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import mysql
from installation import Installation, open_installation
from mailtape.domain.ids import OrganisationId


@pytest.fixture(params=["sqlite", pytest.param("mysql", marks=pytest.mark.services)])
async def installation(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Installation]:
    """A whole installation of this test's own; only its rows differ."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_rows"), tmp_path / "rows.sqlite3")
        async with open_installation(tmp_path) as opened:
            yield opened
        return
    async with (
        mysql.rows_of(request.getfixturevalue("migrated_mysql")) as database,
        open_installation(tmp_path, elsewhere=database) as opened,
    ):
        yield opened


@pytest.fixture
async def acme(installation: Installation) -> OrganisationId:
    return await installation.an_organisation("acme")


@pytest.fixture
async def rival(installation: Installation) -> OrganisationId:
    return await installation.an_organisation("rival")
