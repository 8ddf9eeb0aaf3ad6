"""`mailtape migrate`: the schema, the first organisation, the administrator and the token."""

from typing import Annotated

import typer

from mailtape.commands.folder import DataOption, existing
from mailtape.commands.starting import prepared, tell
from mailtape.data_folder import DataFolder
from mailtape.settings import read_settings


def migrate(
    data: DataOption = None,
    check: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--check", help="Change nothing; exit 78 when there is something to do.")
    ] = False,
) -> None:
    """Bring the data folder to this release; the server must not run.

    A copy of the rows is made before an older schema is changed.
    """
    settings = read_settings(data_dir=data)
    if check:
        existing(settings)
        typer.echo("The schema is this release's.")
        return
    folder = DataFolder(settings.data_dir)
    with folder.owned():
        tell(folder, prepared(folder, settings))
    typer.echo("The schema is this release's.")
