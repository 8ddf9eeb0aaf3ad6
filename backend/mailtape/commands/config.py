"""`mailtape config`: are the settings right, which are in force, which are there?"""

import asyncio
from typing import Annotated

import typer

from mailtape.commands.folder import DataOption
from mailtape.opening import check_addresses
from mailtape.settings import read_settings
from mailtape.settings_reference import as_env_example, as_lines, as_markdown

app = typer.Typer(help="Settings: check, show, reference.", no_args_is_help=True)


@app.command()
def check(data: DataOption = None) -> None:
    """Read the settings; exit 78 with a sentence for each that is wrong."""
    asyncio.run(check_addresses(read_settings(data_dir=data)))
    typer.echo("The settings are right.")


@app.command()
def show(data: DataOption = None) -> None:
    """Print what is in force, secrets masked."""
    for line in as_lines(read_settings(data_dir=data)):
        typer.echo(line)


@app.command()
def reference(
    env: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--env", help="As .env.example instead of Markdown.")
    ] = False,
) -> None:
    """Print every setting with what it may be, its default and its meaning."""
    typer.echo(as_env_example() if env else as_markdown(), nl=not env)
