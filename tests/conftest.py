"""What tests of every kind may ask for."""

import os
import random
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import URL

import mysql
from installation import Installation, Installed, open_installation, settings
from mailtape.rows import schema

_TOLD = "told"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests told, whichever process they ran in."""
    for reports in (terminalreporter.getreports("passed"), terminalreporter.getreports("failed")):
        for report in reports:
            for name, text in report.user_properties:
                if name == _TOLD:
                    terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {text}")


@pytest.fixture(scope="session")
def migrated_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with this release's schema and nothing in it; to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "rows.sqlite3"
    schema.migrate(path)
    return path


@pytest.fixture(scope="session")
def migrated_mysql() -> Iterator[URL]:
    """A MySQL database with this release's schema and nothing in it; whoever writes empties it."""
    with mysql.migrated_database() as url:
        yield url


@pytest.fixture
def installed(tmp_path: Path, migrated_rows: Path) -> Installed:
    """Opens an installation of this test's own with settings of its own, once."""

    def install(**changes: object) -> AbstractAsyncContextManager[Installation]:
        shutil.copy(migrated_rows, tmp_path / "rows.sqlite3")
        return open_installation(tmp_path, api=settings(**changes))

    return install


@pytest.fixture
async def installation(installed: Installed) -> AsyncIterator[Installation]:
    """A whole installation of this test's own."""
    async with installed() as opened:
        yield opened


@pytest.fixture
def client(installation: Installation) -> httpx.AsyncClient:
    """Speaks HTTP to the installation's application."""
    return installation.client


@pytest.fixture
def soak() -> bool:
    """Whether this is the long run."""
    return os.environ.get("MAILTAPE_TEST_SOAK") == "1"


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Say something that is to be read also when the test passes."""

    def say(*what: object) -> None:
        request.node.user_properties.append((_TOLD, " ".join(map(str, what))))

    return say


@pytest.fixture
def chance(request: pytest.FixtureRequest, tell: Callable[..., None]) -> random.Random:
    """A source of chance; the same seed makes the same choices again."""
    seed = request.config.getoption("randomly_seed")
    tell(f"--randomly-seed={seed}")
    return random.Random(seed)
