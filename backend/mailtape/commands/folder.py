"""An installation as commands reach it: its data folder, and the stores that its settings name."""

from pathlib import Path
from typing import Annotated

import typer

from mailtape.data_folder import DataFolder
from mailtape.preparing import check_schema
from mailtape.settings import Settings

DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The data folder; DATA_DIR when not given."),
]


def existing(settings: Settings) -> DataFolder:
    """Find an installation whose rows this release can read.

    Raises:
        SchemaNotCurrent: there is nothing in it, or it must be migrated first.
        SchemaTooNew: a newer release wrote it.
        Unavailable: its database does not answer.
    """
    folder = DataFolder(settings.data_dir)
    check_schema(settings, folder)
    return folder
