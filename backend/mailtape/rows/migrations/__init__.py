"""The schema and its history (Alembic); runs on SQLite and on MySQL.

Every release starts on the data of the one before: `upgrade` brings it up to date, after a copy
where the database is a file. A schema from the future is refused.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

_FOLDER = Path(__file__).parent


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
    """Bring a database to `head`; all or nothing where the database allows it."""
    config = _config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
