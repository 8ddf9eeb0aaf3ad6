"""Whether the rows of a SQLite file have this release's schema, and how they get it.

A copy is made before anything is changed. A schema that is newer than this release is refused:
writing to it would harm what the newer release keeps there.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, NullPool, create_engine, event

from mailtape.rows import migrations
from mailtape.rows.sqlite_database import driver_errors, prepare


class SchemaState(Enum):
    """What stands in a database, seen from this release."""

    EMPTY = "empty"
    OLDER = "older"
    CURRENT = "current"
    NEWER = "newer"


class SchemaTooNew(Exception):
    """The rows were written by a newer release."""

    def __init__(self, where: object) -> None:
        super().__init__(f"The schema of {where} is newer than this release of Mailtape.")


@dataclass(frozen=True, slots=True)
class Migration:
    """What was done to a file."""

    before: SchemaState
    copy: Path | None
    """Where the rows as they were can be found; None when nothing was changed."""


def state(path: Path) -> SchemaState:
    """Compare a file with this release; a missing file is an empty one and stays missing.

    Raises:
        Unavailable: the file cannot be read.
    """
    if not path.exists():
        return SchemaState.EMPTY
    engine = _engine(path, begin="BEGIN")
    try:
        with driver_errors():
            revision = migrations.current(engine)
    finally:
        engine.dispose()
    return compare(revision)


def compare(revision: str | None) -> SchemaState:
    """Place a revision, None for no schema at all, beside this release's."""
    if revision is None:
        return SchemaState.EMPTY
    if revision == migrations.head():
        return SchemaState.CURRENT
    return SchemaState.OLDER if migrations.is_known(revision) else SchemaState.NEWER


def migrate(path: Path) -> Migration:
    """Bring a file to this release's schema; the same again does nothing.

    Call it while no other process has the file open.

    Raises:
        SchemaTooNew: it was written by a newer release; nothing was changed.
        Unavailable: another process is writing it.
    """
    before = state(path)
    if before is SchemaState.CURRENT:
        return Migration(before, None)
    if before is SchemaState.NEWER:
        raise SchemaTooNew(path)
    copy = _copy(path) if before is SchemaState.OLDER else None
    engine = _engine(path, begin="BEGIN IMMEDIATE")
    try:
        with driver_errors():
            migrations.upgrade(engine)
    finally:
        engine.dispose()
    return Migration(before, copy)


def _copy(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        copy = path.with_name(f"{path.stem}.before-migration-from-{revision}{path.suffix}")
        copy.unlink(missing_ok=True)  # of a migration that did not come to its end
        connection.execute("VACUUM INTO ?", (str(copy),))
    return copy


def _engine(path: Path, begin: str) -> Engine:
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _entry: Any) -> None:
        prepare(connection)

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine
