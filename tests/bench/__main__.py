"""Measures, and prints the embedded default, production on real servers, and both side by side.

    make bench                                    everything, about twelve minutes
    make bench ARGS=--quick                       small counts: does it run, not how fast
    make bench ARGS="--only latency"              one part; may be given several times
    make bench ARGS="--markdown docs/BENCHMARK.md"    also writes the tables as a page

The data lies in `build/` unless `--folder` names another file system; what the servers of
production keep, under `/var/tmp`. Rates depend on what a sync costs there, so the head says it.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bench import draining, latency, policy, reading, relayed, throughput
from bench.counts import FULL, QUICK, Counts
from bench.figures import Figure, as_markdown, as_text, one_each, side_by_side
from bench.machine import described

Part = Callable[[Path, Counts], Iterator[Figure]]
EMBEDDED: Mapping[str, Part] = {
    "throughput": throughput.measure,
    "lmtp": throughput.measure_lmtp,
    "latency": latency.measure,
    "reading": reading.measure,
    "draining": draining.measure,
    "policy": policy.measure,
}
PRODUCTION: Mapping[str, Part] = {
    "fleet-lmtp": throughput.measure_fleet,
    "fleet-postfix": relayed.measure,
    "fleet-policy": policy.measure_fleet,
}
TABLES: Mapping[str, Mapping[str, Part]] = {"Embedded": EMBEDDED, "Production": PRODUCTION}
PARTS = [name for parts in TABLES.values() for name in parts]

PAGE = """# Benchmark

Measured by `make bench` on loopback, everything on. Ratios are to Postfix's `smtp-sink`, asked
alternately with the server in the same run, by `smtp-source` over kept connections.

*Embedded* is `mailtape serve` as it comes. *Production* is one process each of `mailtape api`,
`ingest`, `policy` and `worker`, on MySQL, MongoDB, RabbitMQ and Redis of the bench's own on the
same machine; the recipient is a customer on a tier with limits that have room.

{machine}

{tables}
"""


def main() -> None:
    """Runs the parts that were asked for; a slow figure is printed, never an error."""
    args = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends on the way out
    args.folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[Figure]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.folder.resolve()) as folder:
        machine = described(Path(folder))
        for title, parts in TABLES.items():
            for name in [name for name in parts if name in (args.only or PARTS)]:
                sys.stderr.write(f"{name} …\n")
                data = Path(folder, name)
                data.mkdir()
                measured = parts[name](data, QUICK if args.quick else FULL)
                tables.setdefault(title, []).extend(measured)
    shown = {title: one_each(figures) for title, figures in tables.items()}
    if tables.keys() == TABLES.keys():
        shown["Side by side"] = side_by_side(tables)
    print(machine, *(f"{title}\n{as_text(rows)}" for title, rows in shown.items()), sep="\n\n")
    if args.markdown:
        pages = [f"## {title}\n\n{as_markdown(rows)}" for title, rows in shown.items()]
        page = PAGE.format(machine=machine, tables="\n\n".join(pages))
        args.markdown.write_text(page, "utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small counts")
    parser.add_argument("--only", action="append", choices=PARTS, metavar="|".join(PARTS))
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page there too")
    parser.add_argument("--folder", type=Path, default=Path("build"), help="where the data lies")
    return parser.parse_args()


if __name__ == "__main__":
    main()
