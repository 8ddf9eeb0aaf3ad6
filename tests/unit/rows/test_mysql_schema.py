"""The schema of a MySQL database: whether it is this release's, and how it becomes so."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import URL, exc, inspect, text

import mysql
import services
from mailtape.domain.errors import Unavailable
from mailtape.rows import migrations, mysql_schema
from mailtape.rows.base import Row
from mailtape.rows.mysql_database import mysql_url
from mailtape.rows.schema import SchemaState, SchemaTooNew
from processes import free_ports

pytestmark = pytest.mark.services


@pytest.fixture
def empty() -> Iterator[URL]:
    with services.own_database() as variables:
        url = mysql.url_of(variables)
        with mysql.connected(url) as connection:  # as an operator may have made it
            connection.execute(text("ALTER DATABASE CHARACTER SET latin1"))
        yield url


def test_of_two_migrations_at_once_one_does_it(empty: URL) -> None:
    assert mysql_schema.state(empty) is SchemaState.EMPTY

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(mysql_schema.migrate, [empty] * 3))

    assert mysql_schema.state(empty) is SchemaState.CURRENT
    assert mysql_schema.migrate(empty) is SchemaState.CURRENT
    with mysql.connected(empty) as connection:
        assert {table.name for table in Row.metadata.sorted_tables} <= set(
            inspect(connection).get_table_names()
        )


def test_an_older_schema_is_told_and_a_newer_one_left_alone(migrated_mysql: URL) -> None:
    try:
        _say_that_it_is_at(migrated_mysql, "0001")
        assert mysql_schema.state(migrated_mysql) is SchemaState.OLDER
        _say_that_it_is_at(migrated_mysql, "9999")
        assert mysql_schema.state(migrated_mysql) is SchemaState.NEWER
        with pytest.raises(SchemaTooNew, match=r"newer than this release"):
            mysql_schema.migrate(migrated_mysql)
        assert mysql_schema.state(migrated_mysql) is SchemaState.NEWER
    finally:
        _say_that_it_is_at(migrated_mysql, migrations.head())


def _say_that_it_is_at(url: URL, revision: str) -> None:
    with mysql.connected(url) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})


def test_no_server_no_database_and_no_such_user_are_unavailable(migrated_mysql: URL) -> None:
    (nowhere,) = free_ports(1)
    for url in (
        mysql_url(host="127.0.0.1", port=nowhere, user="x", password=None, name="x"),
        migrated_mysql.set(database="test_there_is_none"),
        migrated_mysql.set(password="wrong"),
    ):
        with pytest.raises(Unavailable):
            mysql_schema.state(url)


def test_a_password_is_not_shown() -> None:
    url = mysql_url(host="h", port=1, user="u", password="hunter2", name="n")

    assert "hunter2" not in f"{url} {url!r}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("zurich@example.org", "z\u00fcrich@example.org"),
        ("strasse@example.org", "stra\u00dfe@example.org"),
        ("a@example.org", "A@example.org"),
        ("\u00e9@example.org", "e\u0301@example.org"),
        ("\U0001f600@example.org", "\U0001f601@example.org"),
    ],
)
def test_addresses_are_the_same_only_character_by_character(
    migrated_mysql: URL, one: str, other: str
) -> None:
    add = text(
        "INSERT INTO users (id, email, password_hash, email_verified, platform_admin, status,"
        " created_at) VALUES (:id, :email, '', 0, 0, 'active', 0)"
    )
    with mysql.connected(migrated_mysql) as connection:
        for number, email in enumerate((one, other)):
            connection.execute(add, {"id": bytes([number] * 16), "email": email})
        with pytest.raises(exc.IntegrityError):
            connection.execute(add, {"id": b"3" * 16, "email": other})
        connection.rollback()
