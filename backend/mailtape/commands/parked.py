"""`mailtape park`: mail that could not be stored and waits for a person."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Annotated, TypeVar

import typer

from mailtape.commands.folder import DataOption, existing
from mailtape.domain.ids import to_text
from mailtape.opening import opened
from mailtape.ports.queue import Parked, Queue
from mailtape.settings import read_settings

T = TypeVar("T")

_MOST_LISTED = 10_000
_AT_ONCE = 200
"""Mails that are offered again in one step."""

app = typer.Typer(
    help="Mail that could not be stored: list, show, retry, drop.", no_args_is_help=True
)
Receipt = Annotated[int, typer.Argument(min=1, help="The number that `park list` shows.")]


@app.command("list")
def list_(
    data: DataOption = None,
    limit: Annotated[int, typer.Option(min=1, max=_MOST_LISTED)] = 100,
) -> None:
    """List parked mail, oldest first: number, time, sender, recipients, reason."""
    for mail in _ask(lambda queue: queue.parked(limit), data):
        typer.echo(_line(mail))


@app.command()
def show(
    receipt: Receipt,
    data: DataOption = None,
    raw: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--raw", help="Write the message itself, byte for byte.")
    ] = False,
) -> None:
    """Show one parked mail."""
    if raw:
        _write(_ask(lambda queue: queue.parked_raw(receipt), data))
        return
    mails = _ask(lambda queue: queue.parked(_MOST_LISTED), data)
    found = next((mail for mail in mails if mail.receipt == receipt), None)
    if found is None:
        raise _no_such_mail()
    envelope = found.envelope
    for name, value in (
        ("number", str(found.receipt)),
        ("reason", found.reason),
        ("ingest id", to_text(envelope.ingest_id)),
        ("accepted", envelope.accepted_at.isoformat(timespec="milliseconds")),
        ("protocol", envelope.protocol),
        ("from", f"<{envelope.mail_from}>"),
        *(("to", f"<{delivery.recipient}>") for delivery in envelope.deliveries),
        ("client", f"{envelope.client_address} {envelope.helo} {envelope.tls}".strip()),
        ("size", f"{envelope.size} bytes"),
    ):
        typer.echo(f"{name:10} {_printable(value)}")


@app.command()
def retry(
    receipt: Annotated[
        int | None, typer.Argument(min=1, help="The number that `park list` shows.")
    ] = None,
    data: DataOption = None,
    all_: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--all", help="Every mail that is parked, until the queue is full.")
    ] = False,
) -> None:
    """Offer parked mail to the workers again; `serve` with a queue of its own must not run."""
    if (receipt is None) != all_:
        raise typer.BadParameter("Give the number of a mail, or --all.")
    if receipt is None:
        _ask(_retry_all, data, alone=True)
        return
    if not _ask(lambda queue: queue.unpark(receipt), data, alone=True):
        raise _no_such_mail()
    typer.echo(f"Mail {receipt} waits in the queue again.")


@app.command()
def drop(receipt: Receipt, data: DataOption = None) -> None:
    """Forget a parked mail for good; `serve` with a queue of its own must not run."""
    if not _ask(lambda queue: queue.drop(receipt), data, alone=True):
        raise _no_such_mail()
    typer.echo(f"Mail {receipt} is gone.")


async def _retry_all(queue: Queue) -> None:
    """Offer what is parked now, and tell how far it went however it ends.

    What is parked anew meanwhile stays, or a store that is down would keep this from ending.
    """
    parked, offered = (await queue.depth()).parked, 0
    try:
        while offered < parked:
            taken = await queue.unpark_some(min(_AT_ONCE, parked - offered))
            if not taken:
                break
            offered += taken
            typer.echo(f"{offered} of {parked}", err=True)
    finally:
        typer.echo(f"{offered} of {parked} parked mails wait in the queue again.")


def _ask(question: Callable[[Queue], Awaitable[T]], data: DataOption, *, alone: bool = False) -> T:
    """Ask the queue; `alone` where a running server would not learn of what was changed.

    A server that has the queue in a file remembers what it has read and how much there is, so a
    mail that another process gives back to it would lie there until the next start. A broker tells
    its workers itself.
    """
    settings = read_settings(data_dir=data)
    folder = existing(settings)

    async def ask() -> T:
        async with opened(settings, folder) as stores:
            return await question(stores.queue)

    with ExitStack() as owning:
        if alone and settings.rabbitmq_url is None:
            owning.enter_context(folder.owned())
        return asyncio.run(ask())


def _line(mail: Parked) -> str:
    envelope = mail.envelope
    recipients = ", ".join(f"<{delivery.recipient}>" for delivery in envelope.deliveries[:3])
    more = f" and {len(envelope.deliveries) - 3} more" if len(envelope.deliveries) > 3 else ""
    return _printable(
        f"{mail.receipt}  {envelope.accepted_at:%Y-%m-%d %H:%M:%S}  <{envelope.mail_from}>"
        f"  to {recipients}{more}: {mail.reason}"
    )


def _printable(text: str) -> str:
    """Keep what a stranger wrote from steering the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _write(raw: bytes | None) -> None:
    if raw is None:
        raise _no_such_mail()
    sys.stdout.buffer.write(raw)


def _no_such_mail() -> typer.Exit:
    typer.echo("There is no parked mail of this number.", err=True)
    return typer.Exit(1)
