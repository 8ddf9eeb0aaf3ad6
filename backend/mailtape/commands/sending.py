"""`mailtape send`: one message through the real wire, to see that the way is open."""

import re
import smtplib
from pathlib import Path
from typing import Annotated

import typer

from mailtape.settings import HostPort, read_settings

_TIMEOUT_SECONDS = 60
_LONE_LF = re.compile(rb"(?<!\r)\n")


def send(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="A message; - for standard input.")],
    to: Annotated[list[str], typer.Option("--to", metavar="ADDR", help="May be given again.")],
    sender: Annotated[
        str | None, typer.Option("--from", metavar="ADDR", help="The reverse path.")
    ] = None,
    smtp: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="SMTP_LISTEN when not given.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="Sign in with the token in this file.")
    ] = None,
) -> None:
    """Send a message by SMTP and print the server's reply.

    A file with lines that end in a lone line feed is sent with CRLF, as SMTP wants it.
    """
    settings = read_settings(smtp_listen=smtp)
    raw = _LONE_LF.sub(b"\r\n", file.read())
    mail_from = sender if sender is not None else f"mailtape-send@{settings.domain}"
    token = token_file.read_text("ascii").strip() if token_file else None
    try:
        reply = _deliver(settings.smtp_listen, mail_from, to, raw, token)
    except smtplib.SMTPResponseException as refused:
        typer.echo(f"{refused.smtp_code} {_text(refused.smtp_error)}", err=True)
        raise typer.Exit(1) from None
    except smtplib.SMTPException as error:
        typer.echo(f"{settings.smtp_listen}: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(reply)


def _deliver(server: HostPort, mail_from: str, to: list[str], raw: bytes, token: str | None) -> str:
    with smtplib.SMTP(server.host, server.port, timeout=_TIMEOUT_SECONDS) as wire:
        wire.ehlo()
        if token is not None:
            if not server.on_loopback:
                wire.starttls()
                wire.ehlo()
            wire.login("token", token)
        options = [f"SIZE={len(raw)}"] if wire.has_extn("size") else []
        if not raw.isascii() and wire.has_extn("8bitmime"):
            options.append("BODY=8BITMIME")
        if not all(address.isascii() for address in (mail_from, *to)):
            wire.command_encoding = "utf-8"
            options.append("SMTPUTF8")
        _expect(wire.mail(mail_from, options))
        for address in to:
            _expect(wire.rcpt(address))
        return _expect(wire.data(raw))


def _expect(reply: tuple[int, bytes]) -> str:
    code, text = reply
    if not 200 <= code < 300:
        raise smtplib.SMTPResponseException(code, text)
    return f"{code} {_text(text)}"


def _text(reply: bytes | str) -> str:
    return reply if isinstance(reply, str) else reply.decode("utf-8", "replace")
