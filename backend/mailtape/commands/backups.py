"""`mailtape backup` and `mailtape restore`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from mailtape.commands.folder import DataOption, existing
from mailtape.data_folder import DataFolder
from mailtape.settings import Settings, WrongSettings, read_settings
from mailtape.stores import backup as folder_backup


def backup(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="Made by this; must not exist.")],
    data: DataOption = None,
) -> None:
    """Copy the data folder as it is at one moment, while the server runs.

    The copy has secrets and tokens in it: keep it as you keep the folder itself.
    """
    settings = read_settings(data_dir=data)
    _must_be_whole(settings, "copies")
    folder_backup.back_up(existing(settings), target)
    typer.echo(f"{target} is whole; `mailtape verifydata --data {target}` checks it.")


def restore(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="What `mailtape backup` made.")],
    data: DataOption = None,
    force: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--force", help="Set aside what is in the folder.")
    ] = False,
) -> None:
    """Put a backup into the data folder; the server must not run."""
    settings = read_settings(data_dir=data)
    _must_be_whole(settings, "puts back")
    folder = DataFolder(settings.data_dir)
    with folder.owned():
        aside = folder_backup.restore(source, folder, replace=force, now=datetime.now(UTC))
    typer.echo(f"{folder.path} is restored from {source}.")
    if aside is not None:
        typer.echo(f"What was there before is in {aside}.")


def _must_be_whole(settings: Settings, does: str) -> None:
    """Refuse where a data folder is a part of the installation only: rows and bodies must agree."""
    servers = [
        name
        for name, server in (
            ("DB_HOST", settings.db_host),
            ("MONGODB_URL", settings.mongodb_url),
            ("RABBITMQ_URL", settings.rabbitmq_url),
        )
        if server is not None
    ]
    if servers:
        sentence = (
            f"This command {does} a data folder that holds everything, but {' and '.join(servers)}"
            " name servers, whose backups are made with their own tools: see docs/DEPLOYMENT.md."
        )
        raise WrongSettings((sentence,))
