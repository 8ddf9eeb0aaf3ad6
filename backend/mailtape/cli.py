"""The command `mailtape`.

Every parsing process that `serve` starts imports this module again, as the program it came from;
so it imports nothing of ours until it is told what to do.
"""

import gc
import sys
from importlib import import_module


def main() -> None:
    """Run the command line; never returns."""
    gc.disable()  # what is loaded is no garbage: looking for some is a quarter of a command's time
    run = import_module("mailtape.commands.app").run
    gc.freeze()  # nor is it when the process ends
    gc.enable()
    sys.exit(run())
