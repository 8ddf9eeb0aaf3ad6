"""A process that sends mail over kept SMTP connections, at a fixed rate or as fast as it goes.

    python -m bench.steady --port 1025 --count 1000 [--rate 50] [--connections 4]

Mail number N goes to bench-N@example.net with a subject of its own. A rate is kept by the clock: a
late reply does not move the mails that follow. Prints, as JSON, when each mail was acknowledged
(seconds of the system's monotonic clock, which all processes share). A refusal ends the run.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator

import uvloop

from bench.mails import Varied, varied


def start(
    port: int, count: int, *, rate: float = 0, connections: int = 10
) -> subprocess.Popen[bytes]:
    """Starts this program; rate 0 is as fast as it goes."""
    command = [sys.executable, "-m", "bench.steady", "--port", port, "--count", count]
    command += ["--rate", rate, "--connections", connections]
    return subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE)


def acknowledged(sender: subprocess.Popen[bytes]) -> list[float]:
    """When each mail of a sender that was started here got its 250, by number."""
    printed, _ = sender.communicate()
    if sender.returncode != 0:
        raise RuntimeError("the sender failed")
    times: list[float] = json.loads(printed)
    return times


async def send(port: int, count: int, rate: float, connections: int) -> list[float]:
    """Sends all mails; gives the time of each acknowledgement."""
    times = [0.0] * count
    numbers = iter(range(count))
    begin = time.monotonic()
    mail = varied()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(connections, count)):
            group.create_task(_one_connection(port, numbers, mail, times, rate, begin))
    return times


async def _one_connection(
    port: int, numbers: Iterator[int], mail: Varied, times: list[float], rate: float, begin: float
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await _expect(reader, b"220")
    writer.write(b"EHLO bench.example.org\r\n")
    await _expect(reader, b"250")
    for number in numbers:
        if rate:
            await asyncio.sleep(begin + number / rate - time.monotonic())
        # RFC 2920: the commands of a transaction may leave together, DATA the last of them.
        writer.write(
            b"MAIL FROM:<bench@example.org>\r\nRCPT TO:<bench-%d@example.net>\r\nDATA\r\n" % number
        )
        for code in (b"250", b"250", b"354"):
            await _expect(reader, code)
        writer.writelines((mail.numbered(number), b".\r\n"))
        await _expect(reader, b"250")
        times[number] = time.monotonic()
    writer.write(b"QUIT\r\n")
    await _expect(reader, b"221")
    writer.close()


async def _expect(reader: asyncio.StreamReader, code: bytes) -> None:
    while True:
        line = await reader.readline()
        if not line.startswith(code):
            raise RuntimeError(f"expected {code!r}, got {line!r}")
        if line[3:4] != b"-":
            return


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument(
        "--rate", type=float, default=0, help="mails a second; 0: as fast as they are taken"
    )
    parser.add_argument("--connections", type=int, default=10)
    args = parser.parse_args()
    json.dump(uvloop.run(send(args.port, args.count, args.rate, args.connections)), sys.stdout)


if __name__ == "__main__":
    main()
