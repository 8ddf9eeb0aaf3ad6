"""Whether an installation's parts work, each really used once: what `mailtape doctor` asks.

A part is asked check by check. Each ends within `SECONDS`, also when a server takes connections and
says nothing; who gives no answer is not asked the next question. What a check writes it removes; of
one that is cut off a body may be left, which the sweep takes.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from mailtape.domain.diagnosis import Answer, Check, NotRight, Part
from mailtape.domain.envelope import Delivery, Envelope, Protocol
from mailtape.domain.errors import MailtapeError, StoreFull
from mailtape.domain.ids import IngestId, OrganisationId, new_id
from mailtape.mime.pack import pack_bytes
from mailtape.ports.bodies import Blob, Bodies, Body, BodyKey
from mailtape.ports.queue import Queue
from mailtape.rows import diagnosis
from mailtape.rows.database import Database
from mailtape.rows.diagnosis import Server

SECONDS = 9.5
LARGE_OCTETS = 2**23 + 2**16
"""More than fits into one document; see `stores.mongo_bodies`."""
SMALL_OCTETS = 10_000
_MOST_SKEW = timedelta(seconds=1)
_LEAST_PROCESSES = 4
"""A fleet has one of each kind at least."""


async def examine(parts: Sequence[Part]) -> AsyncIterator[list[Answer]]:
    """Ask all parts at the same time; gives the answers of each part, in their order."""
    asked = [asyncio.create_task(_examine(part)) for part in parts]
    try:
        for each in asked:
            yield await each
    finally:
        for each in asked:
            each.cancel()


async def _examine(part: Part) -> list[Answer]:
    answers: list[Answer] = []
    for check in part.checks:
        right, sentence, answered = await _ask(part, check)
        answers.append(Answer(part.name, check.what, right, sentence))
        if not (right or (answered and not check.decides)):
            break
    return answers


async def _ask(part: Part, check: Check) -> tuple[bool, str, bool]:
    """Give whether it is right, a sentence, and whether anybody answered."""
    try:
        async with asyncio.timeout(SECONDS):
            return True, await check.ask(), True
    except NotRight as wrong:
        return False, wrong.sentence, True
    except TimeoutError as error:
        known = part.explain(error)
        return False, known or f"No answer within ten seconds. {part.advice}", False
    except MailtapeError as error:
        return False, part.explain(error) or f"{error.message} {part.advice}", False
    except Exception as error:  # noqa: BLE001 - whatever a driver says is an answer here
        known = part.explain(error)
        return False, known or f"It failed ({type(error).__name__}). {part.advice}", False


async def one_row(database: Database, advice: str) -> str:
    """Write, read and remove one row.

    Raises:
        NotRight: it did not stay what it was, also below.
    """
    subject = secrets.token_bytes(32)
    await database.write(diagnosis.add_row, subject, datetime.now(UTC))
    written = await database.read(diagnosis.count_rows, subject)
    await database.write(diagnosis.remove_rows, subject)
    left = await database.read(diagnosis.count_rows, subject)
    if (written, left) != (1, 0):
        raise NotRight(f"A row that was written did not stay what it was. {advice}")
    return "One was written, read and removed."


async def server_of_rows(database: Database, connections: int) -> str:
    """Look at how MySQL is set up."""
    before = datetime.now(UTC)
    server = await database.read(diagnosis.server)
    faults = faults_of_server(server, connections, (before, datetime.now(UTC)))
    if faults:
        raise NotRight(" ".join(faults))
    return f"{server.version}; {server.max_connections} connections; every commit is synced."


def faults_of_server(
    server: Server, connections: int, asked: tuple[datetime, datetime]
) -> list[str]:
    """Say what must be set otherwise; `asked` is when it was asked and when it had answered."""
    faults = []
    if server.flush_log_at_commit != 1:
        faults.append(
            f"innodb_flush_log_at_trx_commit is {server.flush_log_at_commit} at DB_HOST, which"
            " loses what was answered when the machine goes down; set it to 1 there."
        )
    if not {"STRICT_ALL_TABLES", "STRICT_TRANS_TABLES"} & set(server.sql_mode.split(",")):
        faults.append(
            "sql_mode is not strict at DB_HOST, also where a connection sets it: what is too long"
            " would be cut. DB_HOST must lead to MySQL itself."
        )
    if server.max_connections < _LEAST_PROCESSES * connections:
        faults.append(
            f"max_connections is {server.max_connections} at DB_HOST and DB_CONNECTIONS is"
            f" {connections}, which {_LEAST_PROCESSES} processes can use up; lower DB_CONNECTIONS,"
            " or raise max_connections there."
        )
    skew = fault_of_clock("DB_HOST", server.clock, asked)
    return [*faults, skew] if skew else faults


def fault_of_clock(setting: str, clock: datetime, asked: tuple[datetime, datetime]) -> str | None:
    """Say when a server's clock is not this machine's."""
    ahead = max(clock - asked[1], asked[0] - clock)
    if ahead <= _MOST_SKEW:
        return None
    return (
        f"The clock at {setting} and this machine's are {ahead.total_seconds():.1f} s apart; limits"
        " and months go by them. Have both set by NTP."
    )


async def right_time(setting: str, read: Callable[[], Awaitable[datetime]]) -> str:
    """Compare a server's clock with this machine's."""
    before = datetime.now(UTC)
    fault = fault_of_clock(setting, await read(), (before, datetime.now(UTC)))
    if fault is not None:
        raise NotRight(fault)
    return "It is this machine's, to the second."


class OneBody:
    """One body with an attachment of a given size, which is kept, fetched and deleted."""

    def __init__(self, bodies: Callable[[], Bodies], advice: str, octets: int) -> None:
        self._bodies = bodies
        self._advice = advice
        self._octets = octets
        self._body: Body | None = None

    @property
    def checks(self) -> tuple[Check, ...]:
        """What is done with it; each step has its own time."""
        size = f"{self._octets:,} bytes"
        return (
            Check(f"keeps {size}", self._keep, decides=True),
            Check(f"gives {size} back", self._fetch),
            Check(f"deletes {size}", self._delete),
        )

    async def _keep(self) -> str:
        self._body = await asyncio.to_thread(_a_body, self._octets)
        await self._bodies().keep([self._body])
        return "Kept."

    async def _fetch(self) -> str:
        body, bodies = self._kept(), self._bodies()
        name, attachment = body.attachments[0]
        found = (
            await bodies.raw(body.key),
            await bodies.content(body.key),
            await bodies.attachment(body.key, name),
        )
        if found != (body.raw, body.content, attachment):
            raise NotRight(f"They did not come back as they were kept. {self._advice}")
        return "They came back as they were kept."

    async def _delete(self) -> str:
        key, bodies = self._kept().key, self._bodies()
        await bodies.delete([key])
        if await bodies.raw(key) is not None:
            raise NotRight(f"They are still there. {self._advice}")
        return "Gone."

    def _kept(self) -> Body:
        assert self._body is not None, "what is not kept ends the part"  # noqa: S101
        return self._body


def _a_body(octets: int) -> Body:
    key = BodyKey(_ingest_id(), OrganisationId(secrets.token_bytes(16)))
    small = _a_blob(SMALL_OCTETS)
    return Body(key, raw=small, content=small, attachments=(("1", _a_blob(octets)),))


def _a_blob(octets: int) -> Blob:
    packed = pack_bytes(secrets.token_bytes(octets))
    return Blob(packed.zstd, packed.size, packed.sha256)


async def one_mail(queue: Queue, advice: str) -> str:
    """Put one mail into a queue in which there is no other, lease and acknowledge it."""
    raw = secrets.token_bytes(SMALL_OCTETS)
    envelope = _an_envelope(len(raw))
    await queue.put(envelope, raw)
    (leased,) = await queue.lease(1, len(raw))
    await queue.acknowledge([leased.receipt])
    if (leased.envelope, leased.raw) != (envelope, raw):
        raise NotRight(f"A mail did not come back as it was queued. {advice}")
    return "One was queued, leased and acknowledged, in a queue of its own."


async def room(queue: Queue, advice: str) -> str:
    """Ask whether the queue would take a mail, and how much is in it."""
    try:
        await queue.check_room()
    except StoreFull as full:
        raise NotRight(f"{full.message} {advice}") from full
    depth = await queue.depth()
    return f"{depth.waiting + depth.leased} mails wait, {depth.parked} are parked."


def _an_envelope(size: int) -> Envelope:
    ingest_id = _ingest_id()
    return Envelope(
        ingest_id=ingest_id,
        accepted_us=int.from_bytes(ingest_id[:6]) * 1000,
        protocol=Protocol.SMTP,
        mail_from="",
        deliveries=(Delivery("doctor@localhost", "doctor@localhost", OrganisationId(bytes(16))),),
        size=size,
        client_address="127.0.0.1",
        helo="localhost",
    )


def _ingest_id() -> IngestId:
    return IngestId(new_id(int(datetime.now(UTC).timestamp() * 1000)))
