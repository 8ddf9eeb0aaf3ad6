"""`mailtape serve`: the whole platform as one process tree on one data folder.

One event loop takes mail, answers the API and hands batches to the parsing processes; it owns
every file. This is the composition root: it chooses the stores, joins the parts, and says in which
order they start and stop. Nothing is decided here that is not about that.

On SIGTERM or SIGINT: stop accepting, finish the mail that is under way, send the idle away, end
waiting requests and streams, finish the batches in hand, write all that is to be written, end the
children. Whatever waits in the queue waits there for the next start.
"""

import asyncio
import gc
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import structlog
import uvloop

from mailtape.api.deps import ApiSettings, Parts
from mailtape.api.main import create_app
from mailtape.data_folder import DataFolder
from mailtape.domain.account import LOCAL_SLUG, Scope
from mailtape.domain.envelope import Protocol
from mailtape.domain.errors import Unauthenticated, Unavailable
from mailtape.domain.ids import OrganisationId
from mailtape.domain.query import WordLimits
from mailtape.domain.session import FailureRules, SessionRules
from mailtape.http_server import LINGERING, HttpBounds, HttpServer
from mailtape.mime.limits import Limits
from mailtape.rows import organisations
from mailtape.rows.database import Session
from mailtape.services import retention, tokens
from mailtape.services.passwords import Passwords
from mailtape.services.quota import Quota
from mailtape.services.recipients import Recipients
from mailtape.services.refusals import Refusals
from mailtape.services.tokens import Keys
from mailtape.services.usage import ApiCalls
from mailtape.services.wakeups import Wakeups
from mailtape.settings import HostPort, Settings
from mailtape.stores.embedded import Stores, open_stores
from mailtape.stores.sql_counters import SqlCounters
from mailtape.stores.sql_limits import SqlFailureLimits
from mailtape_ingest.handler import MailHandler
from mailtape_ingest.server import Deadlines, Server
from mailtape_ingest.session import Rules
from mailtape_ingest.tls import ensure_self_signed, server_context
from mailtape_policy.server import Server as PolicyServer
from mailtape_workers.consumer import Consumer, ConsumerSettings
from mailtape_workers.parsers import ParserSettings
from mailtape_workers.schedule import every

log = structlog.get_logger(__name__)

_KEEP_ALIVE_SECONDS = 75
"""As nginx: clients that poll now and then keep their connection."""
_TRIM_SECONDS = 30.0
_FLUSH_SECONDS = 5.0
_RECONCILE_SECONDS = 5.0
_MOST_LOOKED_THROUGH = 500
"""Waiting mails, to find out whose they are: some milliseconds in which none can be leased."""
_SWEEP_SECONDS = 3600.0
_TIDY_SECONDS = 60.0
_FILES_SECONDS = 5.0
_OTHER_FILES = 200 + LINGERING
"""Beside the connections: SQLite's files, the children's sockets, the listeners."""


def run(settings: Settings, folder: DataFolder, keys: Keys) -> None:
    """Serve until a signal says otherwise.

    The folder is owned by the caller, its schema is this release's, and its first start is done.

    Raises:
        OSError: an address cannot be bound.
        Unavailable: a file cannot be opened.
    """
    wanted = _connections(settings) + _OTHER_FILES
    settings = within_open_files(settings, _allow_open_files(wanted))
    uvloop.run(_serve(settings, folder, keys))


def _allow_open_files(wanted: int) -> int:
    """Raise the limit of open files to `wanted`, or as far as it goes; returns which it was.

    1,024, which many systems give, is reached by SMTP alone.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def within_open_files(settings: Settings, allowed: int) -> Settings:
    """Take fewer connections when the system allows no files for as many as are set.

    Out of files SQLite fails too, and who connects is cut off without a word: better to send some
    away with a reply.
    """
    wanted, left = _connections(settings), allowed - _OTHER_FILES
    if left >= wanted:
        return settings
    fitted = {
        "smtp_max_connections": max(1, settings.smtp_max_connections * left // wanted),
        "http_max_connections": max(1, settings.http_max_connections * left // wanted),
        "policy_max_connections": max(1, settings.policy_max_connections * left // wanted),
    }
    log.warning("serve.few_open_files", allowed=allowed, **fitted)
    return settings.model_copy(update=fitted)


def _connections(settings: Settings) -> int:
    """Count what all doors together may hold open; LMTP has as many as SMTP, if it listens."""
    wires = 1 if settings.lmtp_listen is None else 2
    return (
        settings.smtp_max_connections * wires
        + settings.http_max_connections
        + settings.policy_max_connections
    )


async def _serve(settings: Settings, folder: DataFolder, keys: Keys) -> None:
    """Start the parts from the disk outwards; stop them from the wire inwards."""
    stopped = _on_signal()
    async with AsyncExitStack() as stack:
        listening = stack.enter_context(_listen(settings.http_listen))
        http = HostPort(settings.http_listen.host, listening.getsockname()[1])
        stores = await stack.enter_async_context(_stores(settings, folder))
        local = await stores.database.read(_local)
        recipients = Recipients(
            stores.database,
            domain=settings.domain,
            capture=local if settings.capture else None,
        )
        wakeups = Wakeups(settings.watches_per_organization)
        # What waits is counted before anything is taken from the queue, else it is counted twice.
        counters = SqlCounters(stores.database, await stores.queue.backlog())
        await counters.start(_now())
        refusals = Refusals()
        quota = Quota(recipients, counters, refusals, _now)
        await stack.enter_async_context(_consumer(settings, stores, wakeups))
        parts = _parts(settings, keys, http, stores, recipients, quota, wakeups)
        await stack.enter_async_context(_passwords(parts))
        await stack.enter_async_context(_jobs(settings, stores, parts, local))
        await stack.enter_async_context(_counting(stores, wakeups, counters, refusals))
        server = await stack.enter_async_context(_http(settings, parts, listening))
        doors: dict[str, tuple[Server | PolicyServer, HostPort]] = {
            "smtp": (_smtp(settings, folder, parts), settings.smtp_listen),
            "policy": (_policy(settings, parts), settings.policy_listen),
        }
        if settings.lmtp_listen is not None:
            doors["lmtp"] = (_lmtp(settings, parts), settings.lmtp_listen)
        bound = await stack.enter_async_context(_listening(settings, doors))
        ready = [f"{scheme}://{address}" for scheme, address in {"http": http, **bound}.items()]
        _settle_memory()
        print("ready", *ready, flush=True)  # noqa: T201 - scripts wait for it
        await stopped.wait()
        log.info("serve.draining")
        server.leave()  # not after the wire: both drain in the same seconds


async def _try_to_open_a_file() -> int:
    """Fail when no file can be opened, so that the log has a line about it.

    Out of files, uvloop hangs up on whoever comes and tells nobody.
    """
    os.close(os.open(os.devnull, os.O_RDONLY))
    return 0


def _settle_memory() -> None:
    """Take what was loaded at the start out of the garbage collector's sight.

    It stays for as long as the process does, and looking through all of it stopped everything for a
    tenth of a second now and then.
    """
    gc.collect()
    gc.freeze()


def _on_signal() -> asyncio.Event:
    """Own the signals: nobody else in this process tree has handlers for them."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


def _local(session: Session) -> OrganisationId:
    organisation = organisations.find_by_slug(session, LOCAL_SLUG)
    assert organisation is not None, "the first start makes it"  # noqa: S101
    return OrganisationId(organisation.id)


@asynccontextmanager
async def _stores(settings: Settings, folder: DataFolder) -> AsyncIterator[Stores]:
    stores = open_stores(folder, queue_max_bytes=settings.queue_max_bytes)
    try:
        yield stores
    finally:
        await asyncio.to_thread(stores.close)


@asynccontextmanager
async def _consumer(
    settings: Settings, stores: Stores, wakeups: Wakeups
) -> AsyncIterator[Consumer]:
    consumer = Consumer(
        stores.queue,
        stores.bodies,
        stores.database,
        wakeups,
        ConsumerSettings(
            workers=settings.worker_processes,
            tries=settings.worker_tries,
            retry_seconds=settings.worker_retry_seconds,
            parser=ParserSettings(
                deadline_seconds=settings.worker_deadline_seconds, limits=_parsing(settings)
            ),
        ),
        _now,
        stores.queue.arriving,
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


def _parsing(settings: Settings) -> Limits:
    # Plain integers: the limits go to another process, which has never heard of sizes.
    return Limits(
        header_bytes=int(settings.mime_max_header_bytes),
        header_count=settings.mime_max_header_fields,
        document_bytes=int(settings.mime_max_document_bytes),
        depth=settings.mime_max_depth,
        parts=settings.mime_max_parts,
        attachments=settings.mime_max_attachments,
        decoded_bytes=int(settings.mime_max_decoded_bytes),
        text_chars=settings.mime_max_text_chars,
        html_chars=settings.mime_max_html_chars,
        html_depth=settings.mime_max_html_depth,
        search_chars=settings.mime_max_search_chars,
    )


@asynccontextmanager
async def _jobs(
    settings: Settings, stores: Stores, parts: Parts, local: OrganisationId
) -> AsyncIterator[None]:
    bounds = retention.Bounds(settings.capture_max_messages, settings.capture_max_bytes)

    async def trim() -> int:
        return await retention.trim(stores.database, stores.bodies, local, bounds, now=_now())

    async def sweep() -> int:
        return await retention.sweep(stores.database, stores.bodies, stores.queue, now=_now())

    async def flush() -> int:
        await parts.calls.flush(stores.database)
        return 0  # not worth a line in the log

    jobs = [
        asyncio.create_task(every(_FLUSH_SECONDS, "usage.flush", flush)),
        asyncio.create_task(every(_TRIM_SECONDS, "retention.trim", trim)),
        asyncio.create_task(every(_SWEEP_SECONDS, "retention.sweep", sweep)),
        asyncio.create_task(every(_TIDY_SECONDS, "stores.tidy", stores.tidy)),
        asyncio.create_task(every(_FILES_SECONDS, "serve.files", _try_to_open_a_file)),
    ]
    try:
        yield
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await flush()


@asynccontextmanager
async def _counting(
    stores: Stores, wakeups: Wakeups, counters: SqlCounters, refusals: Refusals
) -> AsyncIterator[None]:
    """Keep the counters true to the rows, and tell organisations what was refused."""

    async def reconcile() -> int:
        depth = await stores.queue.depth()
        if depth.waiting + depth.leased > _MOST_LOOKED_THROUGH:
            return 0
        return await counters.reconcile(_now(), stores.queue.backlog)

    async def tell() -> int:
        return await refusals.flush(stores.database, wakeups, _now())

    jobs = [
        asyncio.create_task(every(_RECONCILE_SECONDS, "counters.reconcile", reconcile)),
        asyncio.create_task(every(_RECONCILE_SECONDS, "refusals.tell", tell)),
    ]
    try:
        yield
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        try:
            await refusals.flush(stores.database, wakeups, _now(), ending=True)
        except Unavailable:
            log.warning("refusals.untold")


def _parts(
    settings: Settings,
    keys: Keys,
    http: HostPort,
    stores: Stores,
    recipients: Recipients,
    quota: Quota,
    wakeups: Wakeups,
) -> Parts:
    url = settings.backend_url or f"http://{http}"
    return Parts(
        settings=ApiSettings(
            keys=keys,
            domain=settings.domain,
            backend_url=url.rstrip("/"),
            registration_open=settings.registration_open,
            secure_cookies=url.startswith("https:"),
            sessions=SessionRules(
                access_lifetime=timedelta(minutes=settings.access_token_lifetime_minutes),
                refresh_lifetime=timedelta(days=settings.refresh_token_lifetime_days),
                absolute_limit=timedelta(days=settings.session_absolute_limit_days),
                idle_limit=timedelta(days=settings.session_idle_limit_days),
            ),
            failures=FailureRules(
                per_account=settings.auth_failures_per_account,
                per_client=settings.auth_failures_per_client,
                window=timedelta(minutes=settings.auth_failure_window_minutes),
            ),
            message_max_bytes=settings.smtp_max_message_bytes,
            max_json_bytes=settings.http_max_json_bytes,
            wait_limit=timedelta(seconds=settings.wait_max_seconds),
            words=WordLimits(settings.search_max_chars, settings.search_max_terms),
            most_recipients=settings.smtp_max_recipients,
            accept_blind=settings.policy_when_blind == "accept",
        ),
        database=stores.database,
        bodies=stores.bodies,
        queue=stores.queue,
        recipients=recipients,
        quota=quota,
        wakeups=wakeups,
        limits=SqlFailureLimits(stores.database),
        passwords=Passwords(),
        calls=ApiCalls(),
        clock=_now,
    )


@asynccontextmanager
async def _passwords(parts: Parts) -> AsyncIterator[None]:
    try:
        yield
    finally:
        parts.passwords.close()


@asynccontextmanager
async def _http(
    settings: Settings, parts: Parts, listening: socket.socket
) -> AsyncIterator[HttpServer]:
    server = HttpServer(
        create_app(parts),
        HttpBounds(settings.http_max_connections, settings.http_request_timeout_seconds),
        parts.wakeups.close,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.drain_timeout_seconds,
    )
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    await server.ready.wait()
    try:
        yield server
    finally:
        server.leave()
        await serving


def _listen(address: HostPort) -> socket.socket:
    """Bind by ourselves, so that port 0 is known and a taken port is an error of the start."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family, backlog=1024)


@asynccontextmanager
async def _listening(
    settings: Settings, doors: Mapping[str, tuple[Server | PolicyServer, HostPort]]
) -> AsyncIterator[dict[str, HostPort]]:
    """Listen at every door; on the way out all of them drain in the same seconds."""
    try:
        yield {
            name: HostPort(*await server.listen(address.host, address.port))
            for name, (server, address) in doors.items()
        }
    finally:
        seconds = settings.drain_timeout_seconds
        await asyncio.gather(*(server.drain(seconds) for server, _ in doors.values()))


def _smtp(settings: Settings, folder: DataFolder, parts: Parts) -> Server:
    async def authenticate(_user: str, password: str) -> bool:
        try:
            principal = await tokens.authenticate(
                parts.database, parts.settings.keys.token_salt, password, _now()
            )
        except Unauthenticated:
            return False
        return not principal.scopes.isdisjoint({Scope.MESSAGES_WRITE, Scope.INGEST})

    on_loopback = settings.smtp_listen.on_loopback
    any_credentials = on_loopback and settings.capture and settings.anonymous
    certificate, key = (settings.smtp_tls_cert, settings.smtp_tls_key)
    if certificate is None or key is None:
        certificate, key = ensure_self_signed(folder.path, socket.gethostname(), _now())
    return Server(
        MailHandler(parts.queue, parts.quota, None if any_credentials else authenticate),
        Rules(
            hostname=settings.domain,
            trusted=settings.lmtp_trusted,
            message_octets=settings.smtp_max_message_bytes,
            recipients=settings.smtp_max_recipients,
            tls=True,
            auth_required=not settings.anonymous,
            auth_in_clear=on_loopback,
        ),
        deadlines=_deadlines(settings),
        tls=server_context(certificate, key),
        connections=settings.smtp_max_connections,
        octets_in_flight=settings.smtp_max_bytes_in_flight,
    )


def _lmtp(settings: Settings, parts: Parts) -> Server:
    return Server(
        MailHandler(parts.queue, parts.quota, None),
        Rules(
            hostname=settings.domain,
            protocol=Protocol.LMTP,
            trusted=settings.lmtp_trusted,
            message_octets=settings.smtp_max_message_bytes,
            recipients=settings.smtp_max_recipients,
        ),
        deadlines=_deadlines(settings),
        connections=settings.smtp_max_connections,
        octets_in_flight=settings.smtp_max_bytes_in_flight,
    )


def _policy(settings: Settings, parts: Parts) -> PolicyServer:
    return PolicyServer(
        parts.quota,
        domain=settings.domain,
        connections=settings.policy_max_connections,
        accept_blind=settings.policy_when_blind == "accept",
    )


def _deadlines(settings: Settings) -> Deadlines:
    return Deadlines(
        command=settings.smtp_command_timeout_seconds,
        message=settings.smtp_data_timeout_seconds,
    )


def _now() -> datetime:
    return datetime.now(UTC)
