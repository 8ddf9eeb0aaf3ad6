"""A database of the tests' own on the MySQL that `deploy/services` started."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

from sqlalchemy import URL, Connection, NullPool, create_engine, inspect, text

import services
from mailtape.rows import mysql_schema
from mailtape.rows.mysql_database import MysqlDatabase, mysql_url

CONNECTIONS = 6


def url_of(variables: Mapping[str, str]) -> URL:
    """Name the database that the `DB_` variables lead to."""
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
def migrated_database() -> Iterator[URL]:
    """Make a database with this release's schema; drop it after."""
    with services.own_database() as variables:
        url = url_of(variables)
        mysql_schema.migrate(url)
        yield url


@asynccontextmanager
async def opened(url: URL, **bounds: float) -> AsyncIterator[MysqlDatabase]:
    """Open a database as one process does; `bounds` are those of `MysqlDatabase`."""
    database = MysqlDatabase(url, connections=CONNECTIONS, **bounds)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def rows_of(url: URL, **bounds: float) -> AsyncIterator[MysqlDatabase]:
    """Open a database and leave it empty, its schema apart."""
    try:
        async with opened(url, **bounds) as database:
            yield database
    finally:
        _empty(url)


def _empty(url: URL) -> None:
    with connected(url) as connection:
        connection.execute(text("SET foreign_key_checks = 0"))
        for name in inspect(connection).get_table_names():
            if name != "alembic_version":
                connection.execute(text(f"DELETE FROM `{name}`"))
