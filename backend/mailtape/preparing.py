"""Brings the rows of an installation to this release, wherever they are.

Done by `serve` and `migrate` before anything is served; the processes of a fleet only look whether
it was done.
"""

from dataclasses import dataclass
from pathlib import Path

from mailtape.data_folder import DataFolder
from mailtape.opening import rows_url
from mailtape.rows import mysql_schema, schema
from mailtape.rows.schema import SchemaState, SchemaTooNew
from mailtape.settings import Settings


class SchemaNotCurrent(Exception):
    """The rows are not there yet, or are those of an older release."""

    def __init__(self, where: str, state: SchemaState) -> None:
        what = "is empty" if state is SchemaState.EMPTY else "has the schema of an older release"
        super().__init__(f"{where} {what}; run `mailtape migrate`.")


@dataclass(frozen=True, slots=True)
class Migrated:
    """What was done to the rows."""

    copy: Path | None
    """Where the rows as they were can be found; None when nothing was changed or kept."""


def check_schema(settings: Settings, folder: DataFolder) -> None:
    """Pass when the rows are this release's. Blocks for seconds at most.

    Raises:
        SchemaNotCurrent: there are none, or they must be migrated first.
        SchemaTooNew: a newer release wrote them.
        Unavailable: they cannot be read.
    """
    url = rows_url(settings)
    if url is None:
        where, state = f"The data folder {folder.path}", schema.state(folder.rows)
    else:
        where, state = f"The database {url.database} at {url.host}", mysql_schema.state(url)
    if state is SchemaState.NEWER:
        raise SchemaTooNew(where)
    if state is not SchemaState.CURRENT:
        raise SchemaNotCurrent(where, state)


def migrate_rows(settings: Settings, folder: DataFolder) -> Migrated:
    """Bring the rows to this release's schema; the same again does nothing. Blocks.

    Raises:
        SchemaTooNew: a newer release wrote them; nothing was changed.
        Unavailable: they cannot be reached, or somebody else is at it.
    """
    url = rows_url(settings)
    if url is None:
        return Migrated(schema.migrate(folder.rows).copy)
    mysql_schema.migrate(url)
    return Migrated(None)
