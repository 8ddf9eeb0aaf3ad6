"""`mailtape verifydata`: does everything that is kept still say the same?"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from mailtape.commands.folder import DataOption, existing
from mailtape.data_folder import DataFolder, FolderInUse
from mailtape.opening import opened
from mailtape.services.verification import Tally, verify
from mailtape.settings import Settings, read_settings
from mailtape.stores.sqlite_backup import is_sound
from mailtape.stores.sqlite_queue_contents import contents


def verifydata(data: DataOption = None) -> None:
    """Read every body, compute everything again, and name what does not agree.

    Prints one line a finding. Exits 0 when there is none, 1 when there is.
    """
    settings = read_settings(data_dir=data)
    folder = existing(settings)
    with _still(settings, folder):
        damaged = [path for path in _files(settings, folder) if not is_sound(path)]
        for path in damaged:
            typer.echo(f"file_damaged: {path} is no whole SQLite file")
        if damaged:
            raise typer.Exit(1)
        faults = asyncio.run(_verify(folder, settings))
    raise typer.Exit(1 if faults else 0)


def _files(settings: Settings, folder: DataFolder) -> list[Path]:
    """List the files that are there and that no server has taken the place of."""
    used = zip(
        folder.databases,
        (settings.db_host, settings.mongodb_url, settings.rabbitmq_url),
        strict=True,
    )
    return [path for path, server in used if server is None and path.exists()]


@contextmanager
def _still(settings: Settings, folder: DataFolder) -> Iterator[None]:
    """Keep servers away while we look; beside running ones say that it is not exact."""
    if settings.on_servers_alone:
        typer.echo("Exact while no process of this fleet runs; nothing here can tell.", err=True)
        yield
        return
    try:
        with folder.owned():
            yield
    except FolderInUse:
        typer.echo("A server is running: what moves while we look may be named wrongly.", err=True)
        yield


async def _verify(folder: DataFolder, settings: Settings) -> int:
    tally = Tally()
    faults = 0
    async with opened(settings, folder) as stores:
        in_file = settings.rabbitmq_url is None
        found = verify(
            stores.database,
            stores.bodies,
            contents(folder.queue) if in_file else (),
            tally,
            None if in_file else stores.queue.named,
        )
        async for finding in found:
            faults += finding.is_fault
            typer.echo(f"{finding.kind}: {finding.what}")
        if not in_file:
            depth = await stores.queue.depth()
            tally.queued = depth.waiting + depth.leased + depth.parked
    typer.echo(
        f"{tally.messages} messages, {tally.bodies} bodies, {tally.attachments} attachments,"
        f" {tally.queued} queued mails of {tally.organisations} organisations: {faults} findings"
    )
    return faults
