"""What `serve` and `migrate` do before anything else: schema, secrets, first people and tokens."""

import asyncio
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

import typer

from mailtape import first_start
from mailtape.data_folder import DataFolder
from mailtape.first_start import Credentials
from mailtape.opening import opened
from mailtape.preparing import Migrated, migrate_rows
from mailtape.services import bootstrap
from mailtape.services.tokens import Keys
from mailtape.settings import Settings


@dataclass(frozen=True, slots=True)
class Start:
    """A folder that is ready to be served."""

    keys: Keys
    credentials: Credentials
    migration: Migrated


def prepared(folder: DataFolder, settings: Settings) -> Start:
    """Bring a folder up to date; the caller owns it. The same again changes nothing.

    Raises:
        SchemaTooNew: a newer release wrote it.
        WrongSettings: a file of the first start is damaged.
    """
    migration = migrate_rows(settings, folder)
    keys = first_start.keys(folder, settings)
    credentials = first_start.credentials(folder, settings)
    asyncio.run(_ensure(folder, settings, keys, credentials))
    return Start(keys, credentials, migration)


async def _ensure(
    folder: DataFolder, settings: Settings, keys: Keys, credentials: Credentials
) -> None:
    async with opened(settings, folder) as stores:
        await stores.prepare()
        await bootstrap.ensure(
            stores.database,
            salt=keys.token_salt,
            email=credentials.email,
            password=credentials.password,
            token=credentials.token,
            password_given=credentials.password_given,
            token_given=credentials.token_given,
            now=datetime.now(UTC),
        )


def tell(folder: DataFolder, start: Start) -> None:
    """Say what was done; the secrets themselves only to a terminal, and only when just made up."""
    if start.migration.copy is not None:
        typer.echo(
            f"The rows were migrated; as they were before they are in {start.migration.copy}."
        )
    if folder.first_start.exists():
        typer.echo(
            f"Administrator and token: {folder.first_start}; the token alone: {folder.token}."
        )
    if start.credentials.made_up and sys.stdout.isatty():
        typer.echo(f"  e-mail    {start.credentials.email}")
        typer.echo(f"  password  {start.credentials.password}")
        typer.echo(f"  token     {start.credentials.token}")
