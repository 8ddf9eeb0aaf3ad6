"""Asks a policy server as Postfix does: kept connections, one request at a time on each.

    python -m bench.asking --port 10031 --recipient qa@mail.example.com [--rate 2000]
        [--count 20000] [--connections 10]

Every request is the RCPT of a mail of its own, so each is decided and held for. A rate is kept by
the clock: a time counts from when the request was due if its connection was still waiting for the
reply before, else from when it was sent. An answer that is not DUNNO ends the run.
"""

import argparse
import asyncio
import time
from dataclasses import dataclass, field

import uvloop

from bench.figures import quantile

_DUNNO = b"action=DUNNO\n\n"


@dataclass(slots=True)
class Asked:
    """What a run came to."""

    per_second: float = 0.0
    seconds: list[float] = field(default_factory=list)
    """From each request to its reply."""


def ask(port: int, recipient: str, count: int, *, connections: int = 10, rate: float = 0) -> Asked:
    """Ask so many times; rate 0 is as fast as it is answered."""
    return uvloop.run(_ask(port, recipient, count, connections, rate))


async def _ask(port: int, recipient: str, count: int, connections: int, rate: float) -> Asked:
    asked = Asked()
    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for first in range(connections):
            numbers = range(first, count, connections)
            group.create_task(_one_connection(port, recipient, numbers, rate, begin, asked))
    asked.per_second = count / (time.perf_counter() - begin)
    return asked


async def _one_connection(
    port: int, recipient: str, numbers: range, rate: float, begin: float, asked: Asked
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in numbers:
        since = time.perf_counter()
        if rate:
            due = begin + number / rate
            if since < due:
                await asyncio.sleep(due - since)
                since = time.perf_counter()
            else:
                since = due
        writer.write(_request(number, recipient))
        answer = await reader.readuntil(b"\n\n")
        asked.seconds.append(time.perf_counter() - since)
        if answer != _DUNNO:
            raise RuntimeError(f"expected {_DUNNO!r}, got {answer!r}")
    writer.close()


def _request(number: int, recipient: str) -> bytes:
    return (
        "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\n"
        f"client_address=192.0.2.{number % 250}\nclient_name=client.example\n"
        f"helo_name=client.example\nsender=s{number % 100}@example.org\nrecipient={recipient}\n"
        "recipient_count=0\nqueue_id=\n"
        f"instance={number:x}.{time.time_ns():x}.0\nsize=5120\n\n"
    ).encode()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--recipient", default="someone@example.net")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=10)
    parser.add_argument(
        "--rate", type=float, default=0, help="checks a second; 0: as fast as they are answered"
    )
    args = parser.parse_args()
    asked = ask(args.port, args.recipient, args.count, connections=args.connections, rate=args.rate)
    p50, p99 = (quantile(asked.seconds, share) * 1000 for share in (0.50, 0.99))
    print(f"{asked.per_second:,.0f}/s p50={p50:.2f}ms p99={p99:.2f}ms")


if __name__ == "__main__":
    main()
