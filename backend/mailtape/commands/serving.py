"""`mailtape serve`: the whole platform in the foreground."""

from importlib import import_module
from typing import Annotated

import typer

from mailtape.commands.folder import DataOption
from mailtape.commands.starting import prepared, tell
from mailtape.data_folder import DataFolder
from mailtape.log import configure_log
from mailtape.settings import read_settings

_ADDRESS = "HOST:PORT"


def serve(
    data: DataOption = None,
    http: Annotated[str | None, typer.Option(metavar=_ADDRESS, help="HTTP_LISTEN")] = None,
    smtp: Annotated[str | None, typer.Option(metavar=_ADDRESS, help="SMTP_LISTEN")] = None,
    lmtp: Annotated[str | None, typer.Option(metavar=_ADDRESS, help="LMTP_LISTEN")] = None,
    policy: Annotated[str | None, typer.Option(metavar=_ADDRESS, help="POLICY_LISTEN")] = None,
    workers: Annotated[str | None, typer.Option(metavar="N", help="WORKERS")] = None,
) -> None:
    """Serve SMTP and HTTP on one data folder until SIGTERM; prints `ready` when it can."""
    settings = read_settings(
        data_dir=data,
        http_listen=http,
        smtp_listen=smtp,
        lmtp_listen=lmtp,
        policy_listen=policy,
        workers=workers,
    )
    configure_log(settings.log_level, settings.log_format)
    folder = DataFolder(settings.data_dir)
    with folder.owned():
        start = prepared(folder, settings)
        tell(folder, start)
        # By name: the web framework and all are loaded by this command alone.
        import_module("mailtape.serve").run(settings, folder, start.keys)
