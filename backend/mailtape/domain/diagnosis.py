"""What is found out about an installation: checks, and their answers."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass


class NotRight(Exception):
    """A part answers and is not as it must be; the sentence names the setting to change."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is really done."""

    what: str
    """What is done, as an operator would say it."""
    ask: Callable[[], Awaitable[str]]
    """Does it and tells what was seen, never a secret; raises when it is not right."""
    decides: bool = False
    """Whether what follows makes no sense when this is not right."""


@dataclass(frozen=True, slots=True)
class Part:
    """What an installation has of one kind, and how it is checked."""

    name: str
    checks: tuple[Check, ...]
    advice: str
    """What to change where nothing else is known: a sentence that names the settings."""
    explain: Callable[[BaseException], str | None]
    """Tells what to change from the driver's own error; None where it is not known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one check came to."""

    part: str
    what: str
    right: bool
    sentence: str
    """What was seen, or what to change."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """List an error and what it came from: a driver's own lies below ours."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
