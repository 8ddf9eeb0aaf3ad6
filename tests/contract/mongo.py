"""MongoDB for the contract suites: a database of the test's own on the running server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import services
from mailtape.stores.mongo_bodies import MongoBodies
from mailtape.stores.mongo_claims import MongoClaims
from mailtape.stores.mongo_connection import Database, open_client


@asynccontextmanager
async def open_database() -> AsyncIterator[Database]:
    """Opens an empty database and removes it again."""
    with services.own_documents() as given:
        async with open_client(given["MONGODB_URL"]) as client:
            yield client[given["MONGODB_DATABASE"]]


@asynccontextmanager
async def open_bodies() -> AsyncIterator[MongoBodies]:
    async with open_database() as database:
        bodies = MongoBodies(database)
        await bodies.prepare()
        yield bodies


@asynccontextmanager
async def open_claims() -> AsyncIterator[MongoClaims]:
    async with open_database() as database:
        claims = MongoClaims(database)
        await claims.prepare()
        yield claims
