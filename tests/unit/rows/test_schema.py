import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mailtape.rows import schema
from mailtape.rows.schema import SchemaState, SchemaTooNew


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return tmp_path / "mailtape.sqlite3"


def do(rows: Path, statement: str) -> list[tuple[str]]:
    with closing(sqlite3.connect(rows)) as connection, connection:
        return connection.execute(statement).fetchall()


def test_a_missing_file_is_empty_and_stays_missing(rows: Path) -> None:
    assert schema.state(rows) is SchemaState.EMPTY
    assert not rows.exists()


def test_an_empty_file_gets_the_schema_and_needs_no_copy(rows: Path) -> None:
    done = schema.migrate(rows)

    assert (done.before, done.copy) == (SchemaState.EMPTY, None)
    assert schema.state(rows) is SchemaState.CURRENT


def test_the_same_again_changes_nothing(rows: Path) -> None:
    schema.migrate(rows)

    assert schema.migrate(rows).before is SchemaState.CURRENT
    assert sorted(path.name for path in rows.parent.glob("*before*")) == []


def test_a_schema_from_the_future_is_refused_and_left_alone(rows: Path) -> None:
    schema.migrate(rows)
    do(rows, "UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(SchemaTooNew, match=r"newer than this release"):
        schema.migrate(rows)

    assert do(rows, "SELECT version_num FROM alembic_version") == [("9999",)]


def test_the_first_release_s_rows_are_copied_then_brought_up_to_date(rows: Path) -> None:
    schema.migrate(rows)
    do(rows, "INSERT INTO tiers VALUES ('mine', '{}', '[]')")
    for undone in (
        "ALTER TABLE messages DROP COLUMN queue_id",
        "ALTER TABLE events DROP COLUMN facts",
        "ALTER TABLE events DROP COLUMN held",
        "ALTER TABLE organisations DROP COLUMN arrival_us",
        "DROP TABLE holds",
        "DROP TABLE joined_names",
        "DROP TABLE rounds",
    ):
        do(rows, undone)
    do(rows, "UPDATE alembic_version SET version_num = '0001'")
    unfinished = rows.with_name("mailtape.before-migration-from-0001.sqlite3")
    unfinished.write_bytes(b"half")

    done = schema.migrate(rows)

    assert (done.before, done.copy) == (SchemaState.OLDER, unfinished)
    assert schema.state(rows) is SchemaState.CURRENT
    for file in (rows, unfinished):
        assert do(file, "SELECT name FROM tiers") == [("mine",)]
    assert "facts" in [name for _, name, *_ in do(rows, "PRAGMA table_info(events)")]
    assert "facts" not in [name for _, name, *_ in do(unfinished, "PRAGMA table_info(events)")]


def test_a_state_can_be_told_while_another_process_writes(rows: Path) -> None:
    schema.migrate(rows)
    with closing(sqlite3.connect(rows)) as writing:
        writing.execute("BEGIN IMMEDIATE")

        assert schema.state(rows) is SchemaState.CURRENT
