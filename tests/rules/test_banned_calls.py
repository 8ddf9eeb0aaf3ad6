"""The linter refuses the calls that the house does without, where they are banned."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def codes_for(source: str, path: str) -> set[str]:
    """The rules that ruff finds broken in this source, as if it stood at this path."""
    command = [
        Path(sys.executable).with_name("ruff"),
        "check",
        "--no-cache",
        "--output-format=json",
    ]
    answer = subprocess.run(
        [*command, "--stdin-filename", ROOT / path, "-"],
        cwd=ROOT,
        input=source,
        capture_output=True,
        text=True,
        check=False,
    )
    return {finding["code"] for finding in json.loads(answer.stdout)}


@pytest.mark.parametrize(
    "source",
    [
        "import os\n\nhome = os.environ['HOME']\n",
        "import os\n\nhome = os.getenv('HOME')\n",
        "from email import message_from_string\n\nmessage = message_from_string('')\n",
        "from email.policy import default\n\npolicy = default\n",
        "import datetime\n\nnow = datetime.datetime.utcnow()\n",
        "import random\n\nchance = random.Random(1)\n",
    ],
)
def test_refuses_a_banned_call(source: str) -> None:
    assert "TID251" in codes_for(source, "backend/mailtape/services/planted.py")


def test_refuses_a_relative_import() -> None:
    assert "TID252" in codes_for("from . import errors\n", "backend/mailtape/domain/planted.py")


def test_lets_the_settings_alone_read_the_environment() -> None:
    source = "import os\n\nhome = os.environ['HOME']\n"

    assert "TID251" not in codes_for(source, "backend/mailtape/settings.py")


def test_no_error_of_an_engine_shows_the_parameters_of_its_statement() -> None:
    calls = [
        node
        for path in (ROOT / "backend").rglob("*.py")
        if "_engine(" in (source := path.read_text())
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"create_engine", "create_async_engine"}
    ]

    assert len(calls) >= 4
    assert all("hide_parameters=True" in map(ast.unparse, call.keywords) for call in calls)
