"""One process of the production platform: `mailtape api`, `ingest`, `policy` or `worker`.

Any number of each works on one set of servers; nothing is kept in the process, so each may be
killed, replaced or doubled at any time. Processes of one kind may listen on one address: the kernel
spreads the connections. When everything can be served, `ready` and the addresses are printed. On
SIGTERM a process takes no more, finishes what it has begun, and ends.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import uvloop

from mailtape.api.deps import Parts
from mailtape.api.main import create_app
from mailtape.data_folder import DataFolder
from mailtape.opening import Stores, opened
from mailtape.ports.queue import Queue
from mailtape.roles import jobs, listening, mail, metrics, policy, process, upkeep, web, work
from mailtape.roles.listening import Door
from mailtape.rows import organisations
from mailtape.services import health
from mailtape.services.health import Question
from mailtape.services.quota import Quota
from mailtape.services.recipients import Recipients
from mailtape.services.refusals import Refusals
from mailtape.services.tokens import Keys
from mailtape.settings import HostPort, Settings


def run(role: str, settings: Settings, folder: DataFolder, keys: Keys) -> None:
    """Be one process of this role until a signal says otherwise; the schema is this release's.

    Raises:
        OSError: an address cannot be bound.
        Conflict: a server has something of ours that was made otherwise.
    """
    uvloop.run(_ROLES[role](process.with_open_files(settings), folder, keys))


async def _api(settings: Settings, folder: DataFolder, keys: Keys) -> None:
    """Answer over HTTP, and take mail at `POST /ingest`."""
    stopped = process.on_signal()
    async with AsyncExitStack() as stack:
        bound = stack.enter_context(listening.bind(settings.http_listen, shared=True))
        http = HostPort(settings.http_listen.host, bound.getsockname()[1])
        parts = await stack.enter_async_context(api_parts(settings, folder, keys, http))
        await stack.enter_async_context(
            web.serving(settings, create_app(parts), bound, parts.wakeups.close)
        )
        await _until(stopped, settings, f"http://{http}")


@asynccontextmanager
async def api_parts(
    settings: Settings, folder: DataFolder, keys: Keys, http: HostPort
) -> AsyncIterator[Parts]:
    """Open what the API stands on; `http` is where it is reached when nothing else is set."""
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(opened(settings, folder))
        judging = await stack.enter_async_context(_judging(settings, stores))
        parts = web.parts(settings, keys, http, stores, judging.recipients, judging.quota, _now)
        stack.callback(parts.passwords.close)
        counting = jobs.of_calls(stores, parts.calls)
        await stack.enter_async_context(upkeep.doing([counting], at_the_end=[counting.run]))
        yield parts


async def _ingest(settings: Settings, folder: DataFolder, keys: Keys) -> None:
    """Take mail by SMTP and, where LMTP_LISTEN says, from a relay by LMTP."""
    stopped = process.on_signal()
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(opened(settings, folder))
        quota = (await stack.enter_async_context(_judging(settings, stores))).quota
        doors: dict[str, tuple[Door, HostPort]] = {
            "smtp": (
                mail.smtp(settings, folder, keys, stores.database, stores.queue, quota, _now),
                settings.smtp_listen,
            )
        }
        if settings.lmtp_listen is not None:
            doors["lmtp"] = (mail.lmtp(settings, stores.queue, quota), settings.lmtp_listen)
        await _looked_after(
            settings,
            stack,
            {
                "rows": health.reading(stores.database),
                "queue": health.accepting(stores.queue),
            },
            stores.queue,
        )
        addresses = await stack.enter_async_context(
            listening.listening(settings, doors, shared=True)
        )
        await _until(stopped, settings, *(f"{name}://{at}" for name, at in addresses.items()))


async def _policy(settings: Settings, folder: DataFolder, keys: Keys) -> None:  # noqa: ARG001 - as all
    """Answer Postfix's questions about recipients."""
    stopped = process.on_signal()
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(opened(settings, folder))
        quota = (await stack.enter_async_context(_judging(settings, stores))).quota
        server = policy.server(settings, quota)
        await _looked_after(settings, stack, {"rows": health.reading(stores.database)})
        addresses = await stack.enter_async_context(
            listening.listening(settings, {"policy": (server, settings.policy_listen)}, shared=True)
        )
        await _until(stopped, settings, *(f"{name}://{at}" for name, at in addresses.items()))


async def _worker(settings: Settings, folder: DataFolder, keys: Keys) -> None:  # noqa: ARG001 - as all
    """Understand and store mail, and do what is due again and again."""
    stopped = process.on_signal()
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(opened(settings, folder))
        local = await stores.database.read(organisations.find_local)
        await stack.enter_async_context(work.consuming(settings, stores, _now))
        await stack.enter_async_context(upkeep.doing(jobs.of_rows(settings, stores, local, _now)))
        await _looked_after(
            settings,
            stack,
            {
                "rows": health.writing(stores.database),
                "bodies": health.keeping(stores.bodies),
                "queue": health.accepting(stores.queue),
            },
            stores.queue,
        )
        await _until(stopped, settings)


_ROLES: Mapping[str, Callable[[Settings, DataFolder, Keys], Coroutine[Any, Any, None]]] = {
    "api": _api,
    "ingest": _ingest,
    "policy": _policy,
    "worker": _worker,
}
ROLES = tuple(_ROLES)


@dataclass(frozen=True, slots=True)
class _Judging:
    """Who judges recipients in this process."""

    recipients: Recipients
    quota: Quota


@asynccontextmanager
async def _judging(settings: Settings, stores: Stores) -> AsyncIterator[_Judging]:
    """Judge recipients, and tell organisations what was refused."""
    capture = await stores.database.read(organisations.find_local) if settings.capture else None
    recipients = Recipients(stores.database, domain=settings.domain, capture=capture)
    refusals = Refusals()
    telling = jobs.of_refusals(stores, refusals, stores.wakeups, _now)
    counting = stores.counting
    last_words = jobs.last_refusals(stores, refusals, stores.wakeups, _now)
    async with upkeep.doing([telling, *jobs.of_counters(counting, _now)], at_the_end=[last_words]):
        yield _Judging(recipients, Quota(recipients, counting.counters, refusals, _now))


async def _looked_after(
    settings: Settings,
    stack: AsyncExitStack,
    questions: Mapping[str, Question],
    queue: Queue | None = None,
) -> None:
    """Show health and metrics where METRICS_LISTEN says."""
    if settings.metrics_listen is not None:
        bound = stack.enter_context(listening.bind(settings.metrics_listen))
        await stack.enter_async_context(
            web.serving(settings, metrics.create_app(questions, queue), bound, lambda: None)
        )


async def _until(stopped: asyncio.Event, settings: Settings, *addresses: str) -> None:
    """Serve until it is time to stop; then the caller's contexts end one after the other."""
    process.settle_memory()
    process.tell_ready(settings, *addresses)
    await stopped.wait()
    process.tell_stopping(settings)


def _now() -> datetime:
    return datetime.now(UTC)
