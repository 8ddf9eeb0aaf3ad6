"""Counters in Redis, exact for any number of processes; one script a verb decides and changes.

What is asked while the process waits for Redis goes together with the next, one script for all that
is asked about one organisation: under load that is a call for many requests.

Redis may forget, all or what it was told last. So each filling of an organisation's counters has a
name, its epoch, which every script is told; when the counters are not those that this process
knows, it fills them from the rows and adds what it has itself granted and counted, by digests, so
that two processes may do so at a time. An epoch holds for the running server that it was made at:
one that was started again, or has taken the other's place, may come with data of any age, which is
as good as none. What another process has granted is missing until that one notices: all look twice
a second (`tend`), and `OTHERS_SECONDS` long nobody grants anything new. A commit is added until its
mail is sure to be in the rows.

`now` is the caller's clock, throughout: the clocks of a fleet must agree to the second.
"""

import asyncio
import secrets
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TypeAlias

import structlog

from mailtape.domain.errors import Unavailable
from mailtape.domain.ids import OrganisationId
from mailtape.domain.quota import UNLIMITED, Decision, Request, Usage, Verdict, decide
from mailtape.domain.tier import Limits
from mailtape.ports.counters import Key, NothingNew
from mailtape.rows import events, holds, organisations, usage
from mailtape.rows.base import from_us, to_us
from mailtape.rows.database import Database, Session
from mailtape.rows.holds import State
from mailtape.stores import redis_counting as scripts
from mailtape.stores.joined_names import JoinedNames, may_be_joined
from mailtape.stores.own_grants import Grant, OwnGrants
from mailtape.stores.redis_connection import Argument, Call, RedisConnection, Script

log = structlog.get_logger(__name__)

_SECOND_US = 1_000_000
_RESERVED_US = 600 * _SECOND_US
"""Longer than a sender may take from RCPT to the end of DATA and Postfix to hand the mail over."""
_REMEMBERED_US = 3600 * _SECOND_US
"""How long a key is known to be committed: a retry of Postfix comes much sooner."""
_COMMITTED_US = 40 * 86_400 * _SECOND_US
"""Longer than a mail waits to be stored, and than its month lasts."""
_DOUBTFUL_US = 60 * _SECOND_US
"""How long what has rows counts on after a filling: another process may have read them before, and
it is missing from the counters until `reconcile` has seen it twice."""
_BROUGHT_IN_US = 3000 * _SECOND_US
"""How long the rows hold what was counted from them: well within `_REMEMBERED_US`."""
_STORED_AT_MOST = 100_000
"""Events that are looked at for what has rows; nobody knows of more grants of its own."""
_JOINED_MS = 3_600_000
_ACCOUNTS = 100_000
_AT_ONCE = 200
"""Questions that go together."""
_FILLED_AT_ONCE = 1000
"""What is held, in one call: well within the time that a call may take."""
_COMPARED_AT_ONCE = 50
"""Organisations: whoever asks at a door waits for no more of them than that."""
_ROUND_SECONDS = 0.25
"""How long comparing goes on each time: a twentieth of what lies between two rounds."""
_TRIES = 3
"""How often counters may be found empty before whoever asks is told that it cannot be told."""
OTHERS_SECONDS = 2.0
"""How long nobody grants anything after Redis was found to have forgotten: an idle process notices
within a second and a half, probing and tending, and has to tell what it granted."""
_TOLD_AT_ONCE = 20
"""Organisations."""
_PREFIX = "mailtape:"

_DECIDING = frozenset({scripts.RESERVE, scripts.FITS})

_Held: TypeAlias = tuple[bytes, int, int, str, str]
"""Digest, octets, until, what it is, month; see `redis_counting.FILL`."""
_Figures: TypeAlias = tuple[int, int, int, int, int, int]
"""Mails, octets, reserved mails and octets, arrival, how often restated."""


@dataclass(slots=True)
class _Account:
    """What this process knows of an organisation's counters."""

    epoch: str = ""
    arrival_us: int = 0
    last: "_Seen | None" = None
    """What was seen when they were last compared with the rows, if they differed."""
    above: "_Seen | None" = None
    """What was seen first since they are above the rows."""

    def correct(self, seen: "_Seen", stored: datetime | None) -> list[int]:
        """Tell by how much mails and octets are to be corrected, now that this was seen."""
        last, self.last = _same(self.last, seen), seen
        above, self.above = _same(self.above, seen) or seen, None
        settled = above if stored is not None and above.at < stored else None
        steps = [_step(seen, last, settled, figure) for figure in (0, 1)]
        if seen.counted != seen.stored and settled is None and not any(steps):
            self.above = above
        return steps


@dataclass(frozen=True, slots=True)
class _Seen:
    """An organisation's counters beside its rows, mails and octets each."""

    at: datetime
    counters: tuple[str, str, int]
    """Which these are: the month, the epoch, how often they were restated."""
    counted: tuple[int, int]
    stored: tuple[int, int]


@dataclass(slots=True, eq=False)
class _Question:
    """One call of a verb, until it is answered."""

    script: Script
    organisation_id: OrganisationId
    limits: Limits
    keys: Sequence[Key]
    octets: int
    now: datetime
    period: str
    now_us: int
    answer: "asyncio.Future[str]"
    digests: list[bytes] = field(default_factory=list)
    tries: int = 0


class RedisCounters:
    """`ports.counters.Counters` over Redis. Needs a running event loop."""

    def __init__(
        self,
        redis: RedisConnection,
        database: Database,
        prefix: str = _PREFIX,
        *,
        seconds_for_others: float = OTHERS_SECONDS,
    ) -> None:
        self._redis = redis
        self._database = database
        self._prefix = prefix
        self._seconds_for_others = seconds_for_others
        self._grants_from = 0.0
        self._names = JoinedNames()
        self._first_names: OrderedDict[str, None] = OrderedDict()
        self._grants = OwnGrants()
        self._accounts: OrderedDict[OrganisationId, _Account] = OrderedDict()
        self._filling: dict[OrganisationId, asyncio.Task[None]] = {}
        self._unfilled: set[OrganisationId] = set()
        self._let_go_later: deque[tuple[int, OrganisationId, list[_Held]]] = deque()
        """What was counted from the rows, and when they need to hold it no longer."""
        self._air = asyncio.Lock()
        self._marker = ""
        self._waiting: deque[_Question] = deque()
        self._flight: asyncio.Task[None] | None = None

    async def rename(self, transaction: str, became: str, now: datetime) -> None:  # noqa: ARG002
        """See `ports.counters`."""
        if not may_be_joined(became) or self._names.find(became) == transaction:
            return
        name = self._joined_key(became)
        await self._redis.commands([("SET", name, transaction, "PX", _JOINED_MS)])
        self._names.join(transaction, became)

    async def reserve(
        self, organisation_id: OrganisationId, limits: Limits, key: Key, octets: int, now: datetime
    ) -> Decision:
        """See `ports.counters`."""
        answer = await self._ask(scripts.RESERVE, organisation_id, limits, (key,), octets, now)
        return _decision(answer, limits, octets, now)

    async def fits(
        self, organisation_id: OrganisationId, limits: Limits, key: Key, octets: int, now: datetime
    ) -> Decision:
        """See `ports.counters`."""
        answer = await self._ask(scripts.FITS, organisation_id, limits, (key,), octets, now)
        return _decision(answer, limits, octets, now)

    async def commit(
        self, organisation_id: OrganisationId, keys: Sequence[Key], octets: int, now: datetime
    ) -> None:
        """See `ports.counters`."""
        await self._ask(scripts.COMMIT, organisation_id, Limits(), keys, octets, now)

    async def release(self, organisation_id: OrganisationId, keys: Sequence[Key]) -> None:
        """See `ports.counters`."""
        await self._ask(scripts.RELEASE, organisation_id, Limits(), keys, 0, datetime.now(UTC))

    async def usage(self, organisation_id: OrganisationId, now: datetime) -> Usage:
        """See `ports.counters`."""
        return Usage(*(await self._figures(organisation_id, now))[:5])

    # What the program does beside the verbs.

    async def begin(self, now: datetime) -> None:
        """Wait until something new may be granted; not for a Redis that does not answer."""
        try:
            await self._mark(to_us(now))
        except Unavailable:
            return
        await asyncio.sleep(max(0.0, self._grants_from - time.monotonic()))

    async def tend(self, now: datetime) -> None:
        """Notice that Redis forgot, and do what was put off; call it twice a second.

        Raises:
            Unavailable: Redis or the rows cannot be asked.
        """
        await self._mark(to_us(now))
        untold = list(self._unfilled)
        for start in range(0, len(untold), _TOLD_AT_ONCE):
            some = untold[start : start + _TOLD_AT_ONCE]
            await asyncio.gather(*(self._fill_once(each, now) for each in some))
        while self._let_go_later and self._let_go_later[0][0] <= to_us(now):
            _, organisation_id, held = self._let_go_later[0]
            await self._let_go(organisation_id, held)
            self._let_go_later.popleft()

    async def reconcile(self, now: datetime, *, stored: datetime | None) -> int:
        """Compare with the rows, which are the truth, and tell how many organisations differed.

        A round takes a quarter of a second; the next one goes on with those whose turn it is.
        Rows above the counters are mail that was not counted; it is counted when the next call sees
        the same. Counters above the rows may be mail that waits to be stored, and count on. All
        that was accepted before `stored` waits no more; None when that cannot be told. What an
        earlier call saw counted before that time and has no rows now will have none.

        Raises:
            Unavailable: Redis or the rows cannot be asked.
        """
        if stored is not None:
            self._grants.settle(to_us(stored))
        begun, differed, left = time.monotonic(), 0, len(self._accounts)
        while left > 0:
            turn = list(islice(self._accounts, min(left, _COMPARED_AT_ONCE)))
            for organisation_id in turn:  # also when it fails, so that one cannot stop the others
                self._accounts.move_to_end(organisation_id)
            differed += await self._compare(turn, now, stored, begun)
            left -= len(turn)
            if time.monotonic() - begun > _ROUND_SECONDS:
                break
        return differed

    async def bring_in(self, organisation_id: OrganisationId, now: datetime) -> None:
        """Add what is held for an organisation in the rows.

        What another process changes there meanwhile stays for whoever comes next.

        Raises:
            Unavailable: Redis or the rows cannot be asked; the same call may be made again.
        """
        await self._fill_once(organisation_id, now)

    def own(self, organisation_id: OrganisationId, now: datetime) -> list[Grant]:
        """List what this process granted and counted and others may not know."""
        return self._grants.of(organisation_id, to_us(now))

    def forget(self, keys: Sequence[Key]) -> None:
        """Do not count these any longer as granted by this process: they were given back."""
        self._grants.drop(holds.digest(*self._names.key(key)) for key in keys)

    def first_name(self, name: str) -> str | None:
        """Tell what a transaction was called before, as far as this process knows."""
        return self._names.find(name)

    def last_name(self, name: str) -> str | None:
        """Tell what a transaction was called last, when it was called anything else before."""
        return self._names.last(name)

    async def close(self) -> None:
        """Stop what is under way; whoever waits for it is told that it cannot be told."""
        running = [*self._filling.values(), *([self._flight] if self._flight else [])]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._refuse(self._waiting, _closed())

    # Asking.

    def _ask(
        self,
        script: Script,
        organisation_id: OrganisationId,
        limits: Limits,
        keys: Sequence[Key],
        octets: int,
        now: datetime,
    ) -> "asyncio.Future[str]":
        question = _Question(
            script,
            organisation_id,
            limits,
            keys,
            octets,
            now,
            f"{now.year:04}-{now.month:02}",
            int(now.timestamp() * _SECOND_US),  # as the rule counts them
            asyncio.get_running_loop().create_future(),
        )
        self._enqueue([question])
        return question.answer

    def _enqueue(self, questions: Iterable[_Question]) -> None:
        self._waiting.extend(questions)
        if self._flight is None and self._waiting:
            self._flight = asyncio.create_task(self._fly())

    async def _fly(self) -> None:
        """Send what waits, again and again.

        One at a time: so what was granted is remembered before Redis is found to forget it. Whoever
        was answered has a turn before the next goes out, and what he asks now goes along.
        """
        try:
            while self._waiting:
                await asyncio.sleep(0)
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _AT_ONCE))]
                try:
                    async with self._air:
                        await self._send(batch)
                except Unavailable as error:
                    self._refuse([*batch, *self._waiting], error)
                    self._waiting.clear()
                except Exception:
                    log.exception("counters.failed")
                    self._refuse(batch, _closed())
                except asyncio.CancelledError:
                    self._refuse(batch, _closed())
                    raise
        finally:
            self._flight = None

    def _refuse(self, questions: Iterable[_Question], error: Unavailable) -> None:
        for question in questions:
            if not question.answer.done():
                question.answer.set_exception(Unavailable(error.message))

    async def _send(self, batch: Sequence[_Question]) -> None:
        ready = [question for question in batch if not self._parked(question)]
        await self._find_names(ready)
        groups: defaultdict[tuple[str, bytes, int, str], list[_Question]] = defaultdict(list)
        for question in ready:
            question.digests = [holds.digest(*self._names.key(key)) for key in question.keys]
            groups[_group(question)].append(question)
        server = self._redis.server
        calls = [self._call(group, server) for group in groups.values()]
        if not calls:
            return
        answers = await self._redis.run(calls, server=server)
        for group_of, answer in zip(groups.values(), answers, strict=True):
            if answer is None:
                self._park(group_of)
            else:
                self._answered(group_of, answer)

    def _call(self, group: Sequence[_Question], server: str) -> Call:
        """Write one script call for all these questions, which differ in their keys only.

        What is known of counters at another server says nothing of those at this one.
        """
        first = group[0]
        keys = self._keys(first.organisation_id, first.period)
        epoch = self._account(first.organisation_id).epoch
        if not epoch.startswith(server):
            epoch = ""
        if first.script is scripts.RELEASE:
            digests = [digest for question in group for digest in question.digests]
            return Call(first.script, keys, digests)
        if first.script is scripts.USAGE:
            return Call(first.script, keys, (epoch, first.now_us))
        arguments: list[Argument] = [epoch, _records(group)]
        if first.script is scripts.COMMIT:
            arguments.append(_REMEMBERED_US)
        else:
            hold_for = _RESERVED_US if time.monotonic() >= self._grants_from else 0
            arguments += [*_sizes(first.limits), *_rates(first.limits), hold_for]
        return Call(first.script, keys, arguments)

    def _answered(self, group: Sequence[_Question], answer: bytes | int) -> None:
        """Remember what was granted, then tell whoever asked."""
        script = group[0].script
        if script in _DECIDING:
            assert isinstance(answer, bytes)  # noqa: S101 - the script says so
            texts = answer.decode().split(",")
        elif script is scripts.USAGE:
            assert isinstance(answer, bytes)  # noqa: S101 - the script says so
            texts = [answer.decode()] * len(group)
        else:
            texts = [""] * len(group)
        granted: list[Grant] = []
        for question, text in zip(group, texts, strict=True):
            until_us = self._held_until(question, text)
            if until_us is not None:
                committed = script is scripts.COMMIT
                granted += [
                    Grant(
                        question.organisation_id,
                        key,
                        digest,
                        question.octets,
                        until_us,
                        committed,
                        question.now_us,
                    )
                    for key, digest in zip(question.keys, question.digests, strict=True)
                ]
            if not question.answer.done():
                question.answer.set_result(text)
        self._grants.add(granted, group[-1].now_us)

    def _held_until(self, question: _Question, text: str) -> int | None:
        """Take note of an answer; tell until when it holds something, if it does."""
        if question.script is scripts.RELEASE:
            self._grants.drop(question.digests)
        elif question.script is scripts.COMMIT:
            return question.now_us + _COMMITTED_US
        elif text.startswith("yes"):
            self._account(question.organisation_id).arrival_us = int(text.rpartition(" ")[2])
            return question.now_us + _RESERVED_US
        elif text.startswith("fits"):
            return int(text.rpartition(" ")[2])
        return None

    async def _find_names(self, questions: Sequence[_Question]) -> None:
        """Find what transactions were called before, for those names that may have been another."""
        unknown = {
            key[0]
            for question in questions
            for key in question.keys
            if may_be_joined(key[0])
            and self._names.find(key[0]) is None
            and key[0] not in self._first_names
        }
        if not unknown:
            return
        names = list(unknown)
        (found,) = await self._redis.commands([("MGET", *map(self._joined_key, names))])
        for name, first in zip(names, found, strict=True):
            if first is not None:
                self._names.join(first.decode(), name)
            else:
                # What was reserved under it must be found under it, even if it is joined later.
                self._first_names[name] = None
                if len(self._first_names) > _ACCOUNTS:
                    self._first_names.popitem(last=False)

    async def _figures(self, organisation_id: OrganisationId, now: datetime) -> _Figures:
        answer = await self._ask(scripts.USAGE, organisation_id, Limits(), (), 0, now)
        emails, octets, reserved, held, arrival_us, restated = map(int, answer.split())
        return emails, octets, reserved, held, arrival_us, restated

    # Filling.

    def _parked(self, question: _Question) -> bool:
        """Have a question wait when its counters are being filled."""
        filling = self._filling.get(question.organisation_id)
        if filling is None or question.script is scripts.RELEASE:
            return False
        filling.add_done_callback(lambda done: self._unpark([question], done))
        return True

    def _park(self, questions: Sequence[_Question]) -> None:
        """Fill counters that were found empty or strange, and ask again."""
        for question in questions:
            question.tries += 1
        asked = [question for question in questions if question.tries <= _TRIES]
        self._refuse(
            (question for question in questions if question.tries > _TRIES),
            Unavailable("The counters are lost again and again."),
        )
        if asked:
            filling = self._start_filling(asked[0].organisation_id, asked[0].now)
            filling.add_done_callback(lambda done: self._unpark(asked, done))

    def _unpark(self, questions: Sequence[_Question], filled: "asyncio.Task[None]") -> None:
        if filled.cancelled() or filled.exception() is not None:
            self._refuse(questions, _closed())
        else:
            self._enqueue(questions)

    async def _fill_once(self, organisation_id: OrganisationId, now: datetime) -> None:
        await asyncio.shield(self._start_filling(organisation_id, now))

    def _start_filling(
        self, organisation_id: OrganisationId, now: datetime
    ) -> "asyncio.Task[None]":
        """Fill an organisation's counters once, however many find them empty."""
        filling = self._filling.get(organisation_id)
        if filling is None:
            filling = asyncio.create_task(self._fill(organisation_id, now))
            self._filling[organisation_id] = filling
            filling.add_done_callback(lambda done: self._filled(organisation_id, done))
        return filling

    def _filled(self, organisation_id: OrganisationId, done: "asyncio.Task[None]") -> None:
        del self._filling[organisation_id]
        error = None if done.cancelled() else done.exception()
        if error is not None and not isinstance(error, Unavailable):
            log.error("counters.filling_failed", exc_info=error)

    async def _fill(self, organisation_id: OrganisationId, now: datetime) -> None:
        """Fill counters from the rows and from what this process knows.

        While this runs, nothing is asked about the organisation: who asks is parked.
        """
        now_us, period = to_us(now), f"{now.year:04}-{now.month:02}"
        marker = await self._mark(now_us)
        begun_us = [grant.at_us for grant in self._grants.of(organisation_id, now_us)]
        since = from_us(min(begun_us) - _SECOND_US) if begun_us else None
        rows = await self._database.read(_rows, organisation_id, period, now, since)
        async with self._air:  # what is being answered at this moment is remembered first
            own = self._grants.of(organisation_id, now_us)
        account = self._account(organisation_id)
        arrival_us = max(rows.arrival_us, account.arrival_us)
        figures = (rows.emails, rows.octets, arrival_us, period, now_us + _REMEMBERED_US)
        epoch = marker + secrets.token_hex(8)
        held = [*rows.held, *(self._held(grant, rows.stored, now_us) for grant in own)]
        keys = (*self._keys(organisation_id, period), self._key("filled"))
        filled = ""
        for start in range(0, max(len(held), 1), _FILLED_AT_ONCE):
            chunk = held[start : start + _FILLED_AT_ONCE]
            ours = "yes" if filled == epoch else "no"
            arguments: list[Argument] = [epoch, *figures, ours, marker, account.epoch]
            arguments += [part for item in chunk for part in item]
            (answer,) = await self._redis.run([Call(scripts.FILL, keys, arguments)])
            if answer is None:  # lost again: whoever asks finds them so
                return
            filled = answer.decode()
        account.epoch = filled
        self._unfilled.discard(organisation_id)
        # Counted: nobody may count it anew an hour from now, when Redis knows its name no more. But
        # should Redis forget it before it is stored, only the rows know of it. Who dies before they
        # let it go leaves it to the next one who fills; if that is so much later, it counts twice
        # until `reconcile` has seen it.
        counted = [each for each in rows.held if each[3] in _COUNTED]
        if counted:
            self._let_go_later.append((now_us + _BROUGHT_IN_US, organisation_id, counted))

    def _held(self, grant: Grant, stored: Collection[bytes], now_us: int) -> _Held:
        """Tell what becomes of a grant of this process in counters that are filled."""
        name, recipient = grant.key
        names = {name, self.first_name(name) or name, self.last_name(name) or name}
        if any(holds.digest(each, recipient) in stored for each in names):
            return (grant.digest, grant.octets, now_us + _DOUBTFUL_US, "doubtful", "")
        what = "own" if grant.committed else "reserved"
        period = f"{from_us(grant.at_us):%Y-%m}"
        return (grant.digest, grant.octets, grant.until_us, what, period)

    async def _let_go(self, organisation_id: OrganisationId, held: Sequence[_Held]) -> None:
        """Hold in the rows no longer what was read there."""
        for start in range(0, len(held), _FILLED_AT_ONCE):
            chunk = held[start : start + _FILLED_AT_ONCE]
            await self._database.write(_let_go, organisation_id, chunk)

    async def _mark(self, now_us: int) -> str:
        """Read the marker, or set it; when it is another than before, all has to be told again."""
        keys = (self._key("filled"), self._key("others"))
        arguments = (secrets.token_hex(8), int(self._seconds_for_others * 1000))
        ((told, left_ms),) = await self._redis.run([Call(scripts.MARK, keys, arguments)])
        marker = str(told.decode())
        if marker != self._marker:
            async with self._air:  # what is being answered at this moment is remembered first
                brought_in = {organisation_id for _, organisation_id, _ in self._let_go_later}
                self._unfilled = self._grants.organisations(now_us) | brought_in
            if self._marker:
                log.warning("counters.emptied", organisations=len(self._unfilled))
            self._marker = marker
        self._grants_from = time.monotonic() + max(0, left_ms) / 1000
        return marker

    async def _compare(
        self, turn: Sequence[OrganisationId], now: datetime, stored: datetime | None, begun: float
    ) -> int:
        period = f"{now.year:04}-{now.month:02}"
        rows = await self._database.read(_stored, turn, period)
        figures = await asyncio.gather(*(self._figures(each, now) for each in turn))
        at = now + timedelta(seconds=time.monotonic() - begun)  # they may be as young as that
        differed, calls = 0, []
        for organisation_id, (emails, octets, _, _, _, restated) in zip(turn, figures, strict=True):
            account = self._account(organisation_id)
            counters = (period, account.epoch, restated)
            seen = _Seen(at, counters, (emails, octets), rows[organisation_id])
            differed += seen.counted != seen.stored
            steps = account.correct(seen, stored)
            if any(steps):
                keys = self._keys(organisation_id, period)
                calls.append(Call(scripts.RESTATE, keys, [account.epoch, restated, *steps]))
        if calls:
            await self._redis.run(calls)
        return differed

    def _account(self, organisation_id: OrganisationId) -> _Account:
        account = self._accounts.get(organisation_id)
        if account is None:
            account = self._accounts[organisation_id] = _Account()
            if len(self._accounts) > _ACCOUNTS:
                self._accounts.popitem(last=False)
        return account

    def _keys(self, organisation_id: OrganisationId, period: str) -> tuple[str, ...]:
        base = f"{self._prefix}{{{organisation_id.hex()}}}"
        return (
            base,
            f"{base}:{period}",
            f"{base}:reserved",
            f"{base}:octets",
            f"{base}:committed",
        )

    def _joined_key(self, name: str) -> str:
        return self._key(f"joined:{name}")

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}"


@dataclass(frozen=True, slots=True)
class _Rows:
    """What the rows tell of an organisation."""

    emails: int
    octets: int
    arrival_us: int
    held: list[_Held]
    stored: set[bytes]
    """What was held for mail that has rows since a certain time."""


def _rows(
    session: Session,
    organisation_id: OrganisationId,
    period: str,
    now: datetime,
    since: datetime | None,
) -> _Rows:
    organisation = organisations.find(session, organisation_id)
    month = usage.find(session, organisation_id, period)
    held = [
        (hold.digest, hold.octets, to_us(hold.expires_at), _WHAT[State(hold.state)], hold.period)
        for hold in holds.live(session, organisation_id, now)
    ]
    return _Rows(
        emails=month.emails if month else 0,
        octets=organisation.storage_bytes if organisation else 0,
        arrival_us=organisation.arrival_us if organisation else 0,
        held=held,
        stored=set()
        if since is None
        else events.held_before(session, organisation_id, since, _STORED_AT_MOST),
    )


def _stored(
    session: Session, turn: Sequence[OrganisationId], period: str
) -> dict[OrganisationId, tuple[int, int]]:
    """Tell of each organisation what the rows come to: mails of the month, and octets."""
    emails = usage.emails(session, turn, period)
    octets = organisations.storage(session, turn)
    return {each: (emails.get(each, 0), octets.get(each, 0)) for each in turn}


def _let_go(session: Session, organisation_id: OrganisationId, held: Sequence[_Held]) -> None:
    """Forget holds that were read, but not what became of them later."""
    organisations.lock(session, organisation_id)
    seen = {digest: (_STATES[what], octets) for digest, octets, _, what, _ in held}
    holds.remove_unchanged(session, organisation_id, seen)


def _same(before: _Seen | None, seen: _Seen) -> _Seen | None:
    """Give what was seen before if it was of the same counters."""
    return before if before is not None and before.counters == seen.counters else None


def _step(seen: _Seen, last: _Seen | None, settled: _Seen | None, figure: int) -> int:
    """Tell by how much to correct mails (0) or octets (1).

    Up by what was missing at two looks: in between, mail is stored a moment before it is counted.
    Down by what was counted when `settled` was seen and is in no row now, although all mail of then
    is stored; more may have been stored since, which makes it less.
    """
    missing = seen.stored[figure] - seen.counted[figure]
    if missing > 0:
        before = 0 if last is None else last.stored[figure] - last.counted[figure]
        return max(0, min(missing, before))
    if settled is None:
        return 0
    return -max(0, min(-missing, settled.counted[figure] - seen.stored[figure]))


_WHAT = {
    State.RESERVED: "reserved",
    State.COMMITTED: "committed",
    State.STORED: "stored",
    State.KNOWN: "known",
}
_COUNTED = frozenset({_WHAT[State.COMMITTED], _WHAT[State.STORED]})
"""What Redis does not count stays for those who still ask the rows; it runs out."""
_STATES = {what: state for state, what in _WHAT.items()}


def _group(question: _Question) -> tuple[str, bytes, int, str]:
    """Name what questions share that go into one call; the limits are the cache's own object."""
    return (
        question.script.name,
        question.organisation_id,
        id(question.limits) if question.script in _DECIDING else 0,
        question.period,
    )


def _records(group: Iterable[_Question]) -> bytes:
    return b"".join(
        scripts.ASKED.pack(digest, question.octets, question.now_us)
        for question in group
        for digest in question.digests
    )


def _sizes(limits: Limits) -> tuple[int, int]:
    return _or(limits.message_bytes), _or(limits.storage_bytes)


def _rates(limits: Limits) -> tuple[int, int, int]:
    """Give mails a month, GCRA's interval and burst; see the script."""
    per_minute = limits.messages_per_minute
    if not per_minute:
        return _or(limits.emails_per_month), -1 if per_minute is None else -2, 0
    interval_us = 60 * _SECOND_US // per_minute
    return _or(limits.emails_per_month), interval_us, interval_us * per_minute


def _or(limit: int | None) -> int:
    return -1 if limit is None else limit


def _decision(answer: str, limits: Limits, octets: int, now: datetime) -> Decision:
    """Word what a script decided. A refusal is worded by the rule itself, from the same figures."""
    verdict, *figures = answer.split(" ")
    if verdict in {"known", "fits"}:
        return UNLIMITED
    if verdict == "wait":
        raise NothingNew("The counters were lost a moment ago.")
    used, stored, held, arrival_us = map(int, figures)
    if verdict == "yes":
        most = limits.emails_per_month
        remaining = None if most is None else most - used
        return Decision(Verdict.ACCEPT, None, remaining, None, arrival_us)
    request = Request(octets, received=verdict == "unfit")
    worded = decide(limits, Usage(used, stored, 0, held, arrival_us), request, now)
    if worded.accepted:
        log.error("counters.script_disagrees", answer=answer)
        raise Unavailable("The counters cannot be understood.")
    return worded


def _closed() -> Unavailable:
    return Unavailable("The counters cannot be asked at the moment.")
