"""`mailtape api | ingest | policy | worker`: one process of the production platform."""

from importlib import import_module
from typing import Annotated

import typer

from mailtape import first_start
from mailtape.commands.folder import DataOption, existing
from mailtape.log import configure_log
from mailtape.settings import Settings, for_a_fleet, read_settings

_ADDRESS = "HOST:PORT"

HttpOption = Annotated[str | None, typer.Option(metavar=_ADDRESS, help="HTTP_LISTEN")]
SmtpOption = Annotated[str | None, typer.Option(metavar=_ADDRESS, help="SMTP_LISTEN")]
LmtpOption = Annotated[str | None, typer.Option(metavar=_ADDRESS, help="LMTP_LISTEN")]
PolicyOption = Annotated[str | None, typer.Option(metavar=_ADDRESS, help="POLICY_LISTEN")]
WorkersOption = Annotated[str | None, typer.Option(metavar="N", help="WORKERS")]


def api(http: HttpOption = None, data: DataOption = None) -> None:
    """Answer over HTTP; prints `ready` when it can."""
    _run("api", read_settings(data_dir=data, http_listen=http))


def ingest(smtp: SmtpOption = None, lmtp: LmtpOption = None, data: DataOption = None) -> None:
    """Take mail by SMTP and LMTP; prints `ready` when it can."""
    _run("ingest", read_settings(data_dir=data, smtp_listen=smtp, lmtp_listen=lmtp))


def policy(listen: PolicyOption = None, data: DataOption = None) -> None:
    """Answer Postfix's policy questions; prints `ready` when it can."""
    _run("policy", read_settings(data_dir=data, policy_listen=listen))


def worker(workers: WorkersOption = None, data: DataOption = None) -> None:
    """Understand and store mail; prints `ready` when it can."""
    _run("worker", read_settings(data_dir=data, workers=workers))


def _run(role: str, settings: Settings) -> None:
    settings = for_a_fleet(settings)
    configure_log(settings.log_level, settings.log_format)
    folder = existing(settings)
    # By name: the web framework and all are loaded by these commands alone.
    import_module("mailtape.fleet").run(role, settings, folder, first_start.keys(folder, settings))
