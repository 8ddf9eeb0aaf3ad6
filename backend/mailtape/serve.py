"""`mailtape serve`: the whole platform as one process tree on one data folder.

One event loop takes mail, answers the API and hands batches to the parsing processes. It owns
every file of the data folder; what the settings keep on servers is shared with whoever else is
pointed at them. This is the composition root: it joins the roles, and says in which order they
start and stop. Nothing is decided here that is not about that.

On SIGTERM or SIGINT: stop accepting, finish the mail that is under way, send the idle away, end
waiting requests and streams, finish the batches in hand, write all that is to be written, end the
children. Whatever waits in the queue waits there for the next start.
"""

from contextlib import AsyncExitStack
from datetime import UTC, datetime

import uvloop

from mailtape.api.main import create_app
from mailtape.background import check_that_all_lasted
from mailtape.data_folder import DataFolder
from mailtape.opening import opened
from mailtape.roles import http as listeners
from mailtape.roles import jobs, listening, mail, policy, process, upkeep, web, work
from mailtape.roles.judging import judging
from mailtape.roles.listening import Door
from mailtape.rows import organisations
from mailtape.services.tokens import Keys
from mailtape.settings import HostPort, Settings


def run(settings: Settings, folder: DataFolder, keys: Keys) -> None:
    """Serve until a signal says otherwise.

    The folder is owned by the caller, the schema is this release's, and the first start is done.

    Raises:
        OSError: an address cannot be bound.
        Unavailable: a file cannot be opened.
        TaskEnded: a fault of the program ended it.
    """
    uvloop.run(_serve(process.with_open_files(settings), folder, keys))
    check_that_all_lasted()


async def _serve(settings: Settings, folder: DataFolder, keys: Keys) -> None:
    """Start the parts from the disk outwards; stop them from the wire inwards."""
    stopped = process.on_signal()
    async with AsyncExitStack() as stack:
        bound = stack.enter_context(listening.bind(settings.http_listen))
        http = HostPort(settings.http_listen.host, bound.getsockname()[1])
        stores = await stack.enter_async_context(opened(settings, folder))
        local = await stores.database.read(organisations.find_local)
        judged = await stack.enter_async_context(judging(settings, stores, _now))
        quota = judged.quota
        parts = web.parts(settings, keys, http, stores, judged.recipients, quota, _now)
        await stack.enter_async_context(work.consuming(settings, stores, _now))
        stack.callback(parts.passwords.close)
        counting = jobs.of_calls(stores, parts.calls)
        await stack.enter_async_context(
            upkeep.doing(
                [
                    *jobs.of_files(stores),
                    *jobs.of_rows(settings, stores, local, _now),
                    counting,
                ],
                at_the_end=[counting.run],
            )
        )
        server = await stack.enter_async_context(
            listeners.serving(settings, create_app(parts), bound, parts.wakeups.close)
        )
        doors: dict[str, tuple[Door, HostPort]] = {
            "smtp": (
                mail.smtp(settings, folder, keys, stores.database, stores.queue, quota, _now),
                settings.smtp_listen,
            ),
            "policy": (policy.server(settings, quota), settings.policy_listen),
        }
        if settings.lmtp_listen is not None:
            doors["lmtp"] = (mail.lmtp(settings, stores.queue, quota), settings.lmtp_listen)
        addresses = await stack.enter_async_context(listening.listening(settings, doors))
        process.settle_memory()
        process.tell_ready(
            settings, *(f"{name}://{at}" for name, at in {"http": http, **addresses}.items())
        )
        await stopped.wait()
        process.tell_stopping(settings)
        server.leave()  # not after the wire: both drain in the same seconds


def _now() -> datetime:
    return datetime.now(UTC)
