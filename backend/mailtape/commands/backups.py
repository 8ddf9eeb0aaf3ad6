"""`mailtape backup` and `mailtape restore`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from mailtape.commands.folder import DataOption, existing
from mailtape.data_folder import DataFolder
from mailtape.settings import read_settings
from mailtape.stores import backup as folder_backup


def backup(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="Made by this; must not exist.")],
    data: DataOption = None,
) -> None:
    """Copy the data folder as it is at one moment, while the server runs.

    The copy has secrets and tokens in it: keep it as you keep the folder itself.
    """
    folder_backup.back_up(existing(read_settings(data_dir=data)), target)
    typer.echo(f"{target} is whole; `mailtape verifydata --data {target}` checks it.")


def restore(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="What `mailtape backup` made.")],
    data: DataOption = None,
    force: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--force", help="Set aside what is in the folder.")
    ] = False,
) -> None:
    """Put a backup into the data folder; the server must not run."""
    folder = DataFolder(read_settings(data_dir=data).data_dir)
    with folder.owned():
        aside = folder_backup.restore(source, folder, replace=force, now=datetime.now(UTC))
    typer.echo(f"{folder.path} is restored from {source}.")
    if aside is not None:
        typer.echo(f"What was there before is in {aside}.")
