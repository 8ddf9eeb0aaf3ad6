"""What tests of every kind may ask for."""

import os
import random
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest
import structlog
from sqlalchemy import URL

import forked
import mysql
from forked import Forked
from installation import Installation, Installed, open_installation, settings
from mailtape.rows import schema

_TOLD = "told"
_LONG = {"fleet", "instance"}
"""Fixtures that start a fleet, or servers of a test's own: a file with one takes minutes."""


def pytest_configure() -> None:
    """Log tracebacks plainly: drawn, with the values of all variables, one takes seconds."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ]
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests told, whichever process they ran in."""
    for reports in (terminalreporter.getreports("passed"), terminalreporter.getreports("failed")):
        for report in reports:
            for name, text in report.user_properties:
                if name == _TOLD:
                    terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {text}")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no process is left alone with one at the end.

    Within a kind they stay as they are shuffled. It takes `--dist loadfile --no-loadscope-reorder`,
    which also keeps a file's fleet or server to one process.
    """
    ranks: dict[Path, int] = {}
    for item in items:
        ranks[item.path] = min(ranks.get(item.path, 0), -_length(item))
    items.sort(key=lambda item: ranks[item.path])


def _length(item: pytest.Item) -> int:
    started = _LONG.intersection(getattr(item, "fixturenames", ()))
    weights = {"services": 1, "e2e": 2}
    whole = [weight for kind, weight in weights.items() if item.get_closest_marker(kind)]
    return 10 * len(started) + sum(whole)


@pytest.fixture(scope="session")
def migrated_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with this release's schema and nothing in it; to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "rows.sqlite3"
    schema.migrate(path)
    return path


@pytest.fixture(scope="session")
def mailtape(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    """The program, loaded: runs commands that end at once, and starts servers again and again."""
    with forked.loaded(tmp_path_factory.mktemp("loaded")) as program:
        yield program


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
