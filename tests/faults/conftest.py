"""What the tests that do harm may ask for."""

import os
import random
from collections.abc import Callable

import pytest


@pytest.fixture
def soak() -> bool:
    """Whether this is the long run."""
    return os.environ.get("MAILTAPE_TEST_SOAK") == "1"


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Callable[..., None]:
    """Say something that is to be read also when the test passes."""

    def say(*what: object) -> None:
        with capsys.disabled():
            print(f"\n{request.node.name}:", *what)

    return say


@pytest.fixture
def chance(request: pytest.FixtureRequest, tell: Callable[..., None]) -> random.Random:
    """A source of chance; the same seed makes the same choices again."""
    seed = request.config.getoption("randomly_seed")
    tell(f"--randomly-seed={seed}")
    return random.Random(seed)
