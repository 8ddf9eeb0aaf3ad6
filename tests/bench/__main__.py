"""Measures, and prints one table.

    make bench                                    everything, about seven minutes
    make bench ARGS=--quick                       small counts: does it run, not how fast
    make bench ARGS="--only latency"              one part; may be given several times
    make bench ARGS="--markdown docs/BENCHMARK.md"    also writes the table as a page

The data lies in `build/` unless `--folder` names another file system. Rates depend on what a sync
costs there, so the head of the table says it.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import draining, latency, policy, reading, throughput
from bench.counts import FULL, QUICK, Counts
from bench.figures import Figure, as_markdown, as_text
from bench.machine import described

PARTS: dict[str, Callable[[Path, Counts], Iterator[Figure]]] = {
    "throughput": throughput.measure,
    "lmtp": throughput.measure_lmtp,
    "latency": latency.measure,
    "reading": reading.measure,
    "draining": draining.measure,
    "policy": policy.measure,
}

PAGE = """# Benchmark

Measured by `make bench` on loopback, embedded default, everything on. Ratios are to Postfix's
`smtp-sink`, asked alternately with the server in the same run, by `smtp-source` over kept
connections.

{machine}

{table}
"""


def main() -> None:
    """Runs the parts that were asked for; a slow figure is printed, never an error."""
    args = _arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.folder.resolve()) as folder:
        machine = described(Path(folder))
        for name in args.only or PARTS:
            sys.stderr.write(f"{name} …\n")
            data = Path(folder, name)
            data.mkdir()
            figures += PARTS[name](data, QUICK if args.quick else FULL)
    print(machine, as_text(figures), sep="\n\n")
    if args.markdown:
        args.markdown.write_text(PAGE.format(machine=machine, table=as_markdown(figures)), "utf-8")


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
