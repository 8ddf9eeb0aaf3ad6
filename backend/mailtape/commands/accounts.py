"""`mailtape create-admin`: somebody who may administrate the platform."""

import asyncio
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from mailtape.commands.folder import DataOption, existing
from mailtape.opening import opened
from mailtape.services import bootstrap
from mailtape.settings import read_settings


def create_admin(
    email: Annotated[str, typer.Option("--email", metavar="E")],
    password_stdin: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    data: DataOption = None,
) -> None:
    """Make an administrator, or make one of a user and set their password; a server may run.

    The password is asked for on the terminal, or is the first line of standard input. It is never
    an argument: other users of the machine can read those.
    """
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    settings = read_settings(data_dir=data)
    folder = existing(settings)

    async def create() -> None:
        async with opened(settings, folder) as stores:
            await bootstrap.create_admin(
                stores.database, email=email, password=password, now=datetime.now(UTC)
            )

    asyncio.run(create())
    typer.echo(f"{email} is an administrator.")
