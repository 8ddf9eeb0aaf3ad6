"""All commands, and the one table from what went wrong to how the command ends.

Exit codes follow sysexits.h where it has one: 0 done, 1 refused or found something, 2 wrong
usage, 69 a part is unavailable, 70 a fault of the program ended a server, 74 a file cannot be used,
75 another process is in the way, 78 wrong settings or schema.
"""

import os
from collections.abc import Sequence

import typer

from mailtape.background import TaskEnded
from mailtape.commands import (
    accounts,
    backups,
    config,
    doctor,
    parked,
    processes,
    schema,
    sending,
    serving,
    tokens,
    verification,
)
from mailtape.data_folder import FolderInUse
from mailtape.domain.errors import MailtapeError, Unavailable
from mailtape.log import configure_log
from mailtape.preparing import SchemaNotCurrent
from mailtape.rows.schema import SchemaTooNew
from mailtape.settings import WrongSettings

app = typer.Typer(
    name="mailtape",
    help="Records every e-mail that software sends. For development and testing mail only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("serve")(serving.serve)
app.command("api")(processes.api)
app.command("ingest")(processes.ingest)
app.command("policy")(processes.policy)
app.command("worker")(processes.worker)
app.command("migrate")(schema.migrate)
app.command("create-admin")(accounts.create_admin)
app.command("generate-tokens")(tokens.generate_tokens)
app.add_typer(config.app, name="config")
app.command("doctor")(doctor.doctor)
app.command("verifydata")(verification.verifydata)
app.command("backup")(backups.backup)
app.command("restore")(backups.restore)
app.command("send")(sending.send)
app.add_typer(parked.app, name="park")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    os.umask(0o077)  # whatever a command writes is for its owner alone
    configure_log("warning")  # standard output is for what was asked; a server says more
    try:
        app(arguments)
    except WrongSettings as error:
        return _failed("\n".join(error.faults), os.EX_CONFIG)
    except (SchemaNotCurrent, SchemaTooNew) as error:
        return _failed(str(error), os.EX_CONFIG)
    except FolderInUse as error:
        return _failed(str(error), os.EX_TEMPFAIL)
    except Unavailable as error:
        damaged = error.code == "file_damaged"
        return _failed(error.message, os.EX_IOERR if damaged else os.EX_UNAVAILABLE)
    except TaskEnded as error:
        return _failed(str(error), os.EX_SOFTWARE)
    except MailtapeError as error:
        return _failed(error.message, 1)
    except OSError as error:
        return _failed(f"{error.filename or 'The system'}: {error.strerror or error}", os.EX_IOERR)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


def _failed(sentences: str, code: int) -> int:
    typer.secho(sentences, fg=typer.colors.RED, err=True)
    return code
