"""What tests of every kind may ask for."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from installation import Installation, open_installation
from mailtape.rows import schema


@pytest.fixture(scope="session")
def migrated_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with this release's schema and nothing in it; to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "rows.sqlite3"
    schema.migrate(path)
    return path


@pytest.fixture
async def installation(tmp_path: Path, migrated_rows: Path) -> AsyncIterator[Installation]:
    """A whole installation of this test's own."""
    shutil.copy(migrated_rows, tmp_path / "rows.sqlite3")
    async with open_installation(tmp_path) as opened:
        yield opened


@pytest.fixture
def client(installation: Installation) -> httpx.AsyncClient:
    """Speaks HTTP to the installation's application."""
    return installation.client
