"""What every part that asks for rows holds: transactions, wherever they run.

`read` gives a snapshot, `write` one transaction that is on disk and synced when it returns.
Queries are functions of `rows`, handed over with their arguments; nothing else opens a session.

`rows.sqlite_database` keeps the rows in a file of one process, `rows.mysql_database` on a server
that any number of processes share. What is handed over may run more than once before it returns
once, and only the last run counts: it changes nothing but what its session sees.
"""

from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy.orm import Session

__all__ = ["Database", "Session"]

P = ParamSpec("P")
T = TypeVar("T")


class Database(Protocol):
    """Where the rows are."""

    async def read(
        self, query: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a query on a snapshot of the rows.

        Raises:
            Unavailable: the database cannot be read.
        """
        ...

    async def write(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a change as one transaction, before all bulk writing; synced on return.

        Raises:
            StoreFull: the disk is full; nothing was changed.
            Unavailable: the database cannot be written. Nothing was changed, or, where the
                connection broke while the answer was on its way, all of it: the caller must be
                able to repeat.
        """
        ...

    async def write_bulk(
        self, work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a change for which nobody is waiting; otherwise as `write`."""
        ...
