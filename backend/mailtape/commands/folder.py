"""The data folder as commands reach it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from mailtape.data_folder import DataFolder
from mailtape.rows import schema
from mailtape.rows.schema import SchemaState, SchemaTooNew
from mailtape.settings import Settings
from mailtape.stores.embedded import Stores, open_stores

DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The data folder; DATA_DIR when not given."),
]


class SchemaNotCurrent(Exception):
    """The rows are not there yet, or are those of an older release."""

    def __init__(self, folder: DataFolder, state: SchemaState) -> None:
        what = "is empty" if state is SchemaState.EMPTY else "has the schema of an older release"
        super().__init__(
            f"The data folder {folder.path} {what}; run `mailtape migrate` or `mailtape serve`."
        )


def existing(settings: Settings) -> DataFolder:
    """Find a data folder that this release can read.

    Raises:
        SchemaNotCurrent: there is nothing in it, or it must be migrated first.
        SchemaTooNew: a newer release wrote it.
    """
    folder = DataFolder(settings.data_dir)
    state = schema.state(folder.rows)
    if state is SchemaState.NEWER:
        raise SchemaTooNew(folder.rows)
    if state is not SchemaState.CURRENT:
        raise SchemaNotCurrent(folder, state)
    return folder


@asynccontextmanager
async def opened(folder: DataFolder, settings: Settings) -> AsyncIterator[Stores]:
    """Open the stores of a folder and close them again."""
    stores = open_stores(folder, queue_max_bytes=settings.queue_max_bytes)
    try:
        yield stores
    finally:
        await asyncio.to_thread(stores.close)
