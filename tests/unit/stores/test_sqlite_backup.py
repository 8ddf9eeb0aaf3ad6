"""What is said of a file that cannot be read: damaged, or only locked."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mailtape.domain.errors import Unavailable
from mailtape.stores.sqlite_backup import is_sound


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "rows.sqlite3"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
    return path


@pytest.fixture
def locked(database: Path) -> Iterator[Path]:
    """A file that another program has for itself."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("INSERT INTO t VALUES (1)")
        yield database


def test_a_whole_file_is_sound(database: Path) -> None:
    assert is_sound(database)


def test_a_damaged_file_is_not(database: Path) -> None:
    database.write_bytes(b"no database at all, but long enough to be read as one" * 100)

    assert not is_sound(database)


def test_of_a_locked_file_nobody_can_tell(locked: Path) -> None:
    with pytest.raises(Unavailable, match="locked"):
        is_sound(locked)
