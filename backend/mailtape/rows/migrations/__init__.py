"""The schema and its history (Alembic); runs on SQLite and on MySQL.

Every release starts on the data of the one before: `upgrade` brings it up to date, after a copy
where the database is a file. A schema from the future is refused.

On SQLite an upgrade is done whole or not at all. MySQL commits each statement that changes a
table: there two upgrades at the same moment wait for each other, and one that was killed halfway
is told by the next one's first error.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

_FOLDER = Path(__file__).parent
_LOCK_SECONDS = 60
_LOCK = "left(concat('mailtape ', sha2(database(), 256)), 64)"
_ALONE = text(f"SELECT get_lock({_LOCK}, {_LOCK_SECONDS})")
_DONE = text(f"SELECT release_lock({_LOCK})")
_BINARY = text("ALTER DATABASE CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
"""No two addresses, slugs or words are the same unless all their characters are. It is the tables'
that are made from now on; a migration names no collation of its own."""


class AnotherUpgrade(Exception):
    """Another process is upgrading the same database."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    return config


def head() -> str:
    """Name the newest revision that this release knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None, "the first revision ships with the package"  # noqa: S101
    return revision


def is_known(revision: str) -> bool:
    """Tell whether a revision is one of this release's history."""
    known = ScriptDirectory.from_config(_config()).walk_revisions()
    return revision in {script.revision for script in known}


def current(engine: Engine) -> str | None:
    """Name the revision that a database is at; None for an empty one."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(engine: Engine) -> None:
    """Bring a database to `head`; all or nothing where the database allows it.

    Raises:
        AnotherUpgrade: one has been under way for a minute, on a server.
    """
    config = _config()
    with engine.begin() as connection, _alone(connection):
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Hold the right to upgrade; on SQLite the transaction that has begun is that right."""
    if connection.dialect.name == "sqlite":
        yield
        return
    if connection.scalar(_ALONE) != 1:
        raise AnotherUpgrade
    try:
        connection.execute(_BINARY)
        yield
    finally:
        connection.execute(_DONE)
