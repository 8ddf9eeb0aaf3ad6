"""MongoDB for the contract suites: a database of the test's own on the running server."""

import secrets
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

from mailtape.stores.mongo_bodies import MongoBodies
from mailtape.stores.mongo_claims import MongoClaims
from mailtape.stores.mongo_connection import Database, open_client

_SERVICES = Path(__file__).parents[2] / "deploy" / "services"


@cache
def running_url() -> str:
    """Asks where the server is; one that does not run is a failure."""
    command = [str(_SERVICES), "env", "mongodb"]
    lines = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, timeout=30, check=True
    ).stdout
    variables = dict(line.split("=", 1) for line in lines.splitlines())
    assert "MONGODB_URL" in variables, "no MongoDB: deploy/services up mongodb"
    return variables["MONGODB_URL"]


@asynccontextmanager
async def open_database() -> AsyncIterator[Database]:
    """Opens an empty database and removes it again."""
    client = open_client(running_url())
    name = f"test_{secrets.token_hex(6)}"
    try:
        yield client[name]
        await client.drop_database(name)
    finally:
        await client.close()


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
