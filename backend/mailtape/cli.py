"""The command `mailtape`.

Every parsing process that `serve` starts imports this module again, as the program it came from;
so it imports nothing of ours until it is told what to do.
"""

import sys
from importlib import import_module


def main() -> None:
    """Run the command line; never returns."""
    sys.exit(import_module("mailtape.commands.app").run())
