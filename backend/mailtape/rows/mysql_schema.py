"""Whether a MySQL database has this release's schema, and how it gets it.

`state` is what each process of a fleet asks when it starts: it works only where the answer is
CURRENT, and ends with 78 otherwise. Nothing is copied before an older schema is changed: a server's
backups are its operator's.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL, Engine, NullPool, create_engine
from sqlalchemy import exc as sql_errors

from mailtape.domain.errors import Unavailable
from mailtape.rows import migrations
from mailtape.rows.mysql_database import from_mysql, tell_of
from mailtape.rows.schema import SchemaState, SchemaTooNew, compare

_CONNECT_SECONDS = 5
_ANSWER_SECONDS = 5
_MIGRATE_SECONDS = 3600
"""How long one statement of an upgrade may take: some rewrite a table."""


def state(url: URL) -> SchemaState:
    """Compare a database with this release. Blocks for seconds at most.

    Raises:
        Unavailable: the server does not answer, or has no such database or user.
    """
    with _engine(url, _ANSWER_SECONDS) as engine:
        return compare(migrations.current(engine))


def migrate(url: URL) -> SchemaState:
    """Bring a database to this release's schema; the same again does nothing. Blocks.

    Of several calls at the same moment one does the work and the others wait for it. Returns what
    was there before.

    Raises:
        SchemaTooNew: it was written by a newer release; nothing was changed.
        Unavailable: the server does not answer, or another process has been upgrading it for a
            minute.
    """
    before = state(url)
    if before is SchemaState.NEWER:
        raise SchemaTooNew(f"the database {url.database}")
    if before is not SchemaState.CURRENT:
        with _engine(url, _MIGRATE_SECONDS) as engine:
            migrations.upgrade(engine)
    return before


@contextmanager
def _engine(url: URL, seconds: int) -> Iterator[Engine]:
    engine = create_engine(
        url.set(drivername="mysql+pymysql"),
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": seconds,
            "write_timeout": seconds,
        },
    )
    try:
        yield engine
    except migrations.AnotherUpgrade as error:
        raise Unavailable("Another process is changing the schema.") from error
    except (sql_errors.DBAPIError, OSError) as error:
        known = from_mysql(error)
        if known is None:
            raise
        tell_of(error)
        raise known from error
    finally:
        engine.dispose()
