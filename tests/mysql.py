"""A database of the tests' own on the MySQL that `deploy/services` started."""

import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, NullPool, create_engine, inspect, text

from mailtape.rows import mysql_schema
from mailtape.rows.mysql_database import MysqlDatabase, mysql_url

_SERVICES = Path(__file__).parents[1] / "deploy" / "services"
CONNECTIONS = 6


def server() -> URL:
    """Name the database that the service has from the beginning; no server is a failed test."""
    told = subprocess.run(
        [_SERVICES, "env", "mysql"], capture_output=True, text=True, timeout=30, check=False
    )
    variables = dict(line.split("=", 1) for line in told.stdout.splitlines())
    assert "DB_HOST" in variables, "no MySQL: deploy/services up mysql"
    return mysql_url(
        host=variables["DB_HOST"],
        port=int(variables["DB_PORT"]),
        user=variables["DB_USER"],
        password=variables["DB_PASSWORD"],
        name=variables["DB_NAME"],
    )


@contextmanager
def connected(url: URL) -> Iterator[Connection]:
    """Speak to a database directly."""
    engine = create_engine(url.set(drivername="mysql+pymysql"), poolclass=NullPool)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def empty_database() -> Iterator[URL]:
    """Make a database without a schema, of a collation that we would not choose; drop it after."""
    there = server()
    name = f"test_{secrets.token_hex(6)}"
    with connected(there) as connection:
        connection.execute(text(f"CREATE DATABASE {name} CHARACTER SET latin1"))
    try:
        yield there.set(database=name)
    finally:
        with connected(there) as connection:
            connection.execute(text(f"DROP DATABASE {name}"))


@contextmanager
def migrated_database() -> Iterator[URL]:
    """Make a database with this release's schema; drop it after."""
    with empty_database() as url:
        mysql_schema.migrate(url)
        yield url


@asynccontextmanager
async def rows_of(url: URL) -> AsyncIterator[MysqlDatabase]:
    """Open a database and leave it empty, its schema apart."""
    database = MysqlDatabase(url, connections=CONNECTIONS)
    try:
        yield database
    finally:
        await database.close()
        _empty(url)


def _empty(url: URL) -> None:
    with connected(url) as connection:
        connection.execute(text("SET foreign_key_checks = 0"))
        for name in inspect(connection).get_table_names():
            if name != "alembic_version":
                connection.execute(text(f"DELETE FROM `{name}`"))
