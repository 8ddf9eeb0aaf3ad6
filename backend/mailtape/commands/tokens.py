"""`mailtape generate-tokens`: tokens for the programs beside the platform."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer

from mailtape import first_start
from mailtape.commands.folder import DataOption, existing
from mailtape.domain.account import Scope
from mailtape.opening import opened
from mailtape.services import bootstrap
from mailtape.settings import read_settings


def generate_tokens(
    name: Annotated[str, typer.Option("--name", metavar="N", help="What it is for.")],
    scope: Annotated[list[Scope], typer.Option("--scope", help="May be given again.")],
    data: DataOption = None,
) -> None:
    """Make a token of organisation `local` and print it, this once; a server may run.

    Only the token goes to standard output, so that a script can take it from there.
    """
    settings = read_settings(data_dir=data)
    folder = existing(settings)
    keys = first_start.keys(folder, settings)

    async def create() -> str:
        async with opened(settings, folder) as stores:
            made = await bootstrap.create_service_token(
                stores.database,
                salt=keys.token_salt,
                name=name,
                scopes=scope,
                now=datetime.now(UTC),
            )
            return made.text

    text = asyncio.run(create())
    typer.echo(f"Token {name!r} with {', '.join(sorted(scope))}; it is not shown again:", err=True)
    typer.echo(text)
