import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from forked import Forked
from served import environment, run


def test_the_command_loads_nothing_until_it_is_told_what_to_do() -> None:
    loaded = (
        "import sys, mailtape.cli; print(*(n for n in sys.modules if n.startswith('mailtape')))"
    )

    answer = subprocess.run(
        [sys.executable, "-c", loaded],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )

    assert answer.stdout.split() == ["mailtape", "mailtape.cli"]


def test_help_names_every_command(tmp_path: Path) -> None:
    answer = run("--help", cwd=tmp_path)

    assert answer.returncode == 0
    for command in (
        "serve",
        "migrate",
        "create-admin",
        "generate-tokens",
        "config",
        "doctor",
        "verifydata",
        "backup",
        "restore",
        "send",
        "park",
    ):
        assert f"  {command} " in answer.stdout


def test_wrong_usage_ends_with_2(tmp_path: Path, mailtape: Forked) -> None:
    assert mailtape.run("backup", cwd=tmp_path).returncode == 2
    assert mailtape.run("park", "retry", cwd=tmp_path).returncode == 2
    assert mailtape.run("park", "retry", "1", "--all", cwd=tmp_path).returncode == 2
    assert (
        mailtape.run("generate-tokens", "--name", "x", "--scope", "all", cwd=tmp_path).returncode
        == 2
    )


def test_commands_on_an_empty_folder_say_what_to_run_first(
    tmp_path: Path, mailtape: Forked
) -> None:
    for command in (["verifydata"], ["backup", "b"], ["park", "list"], ["migrate", "--check"]):
        answer = mailtape.run(*command, cwd=tmp_path)

        assert answer.returncode == 78, command
        assert "mailtape migrate" in answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_migrate_makes_everything_and_the_same_again_changes_nothing(
    tmp_path: Path, mailtape: Forked
) -> None:
    first = mailtape.run("migrate", cwd=tmp_path)
    made_up = (tmp_path / "var/first-start.json").read_bytes()
    second = mailtape.run("migrate", cwd=tmp_path)
    check = mailtape.run("migrate", "--check", cwd=tmp_path)

    assert (first.returncode, second.returncode, check.returncode) == (0, 0, 0), first.stderr
    assert (tmp_path / "var/first-start.json").read_bytes() == made_up


def test_config_show_masks_secrets(tmp_path: Path, mailtape: Forked) -> None:
    secret = "vN3kq0Zt7yXw2LrB9pHs4EdJ6mUcAf8G"

    answer = mailtape.run(
        "config", "show", cwd=tmp_path, settings={"JWT_SECRET": secret, "WORKERS": "3"}
    )

    assert answer.returncode == 0
    assert "WORKERS=3\n" in answer.stdout
    assert "JWT_SECRET=********\n" in answer.stdout
    assert secret not in answer.stdout + answer.stderr


def test_config_check_ends_with_78_when_something_is_wrong(
    tmp_path: Path, mailtape: Forked
) -> None:
    wrong = mailtape.run("config", "check", cwd=tmp_path, settings={"WORKERS": "many"})

    assert wrong.returncode == 78
    assert wrong.stderr.startswith("WORKERS is 'many'; it must be ")
    assert mailtape.run("config", "check", cwd=tmp_path).returncode == 0


def test_a_folder_that_is_being_written_for_long_ends_a_check_with_69(
    tmp_path: Path, mailtape: Forked
) -> None:
    mailtape.run("migrate", cwd=tmp_path)
    with closing(sqlite3.connect(tmp_path / "var/mailtape.sqlite3")) as writing:
        writing.execute("BEGIN IMMEDIATE")

        answer = mailtape.run("verifydata", cwd=tmp_path)

    assert answer.returncode == 69
    assert answer.stderr == "The database cannot be used at the moment.\n"
    assert "search_damaged" not in answer.stdout, "what cannot be looked at is not damaged"


def test_an_address_that_cannot_be_bound_ends_with_74(tmp_path: Path) -> None:
    answer = run("serve", "--http", "192.0.2.1:1", "--smtp", "127.0.0.1:0", cwd=tmp_path)

    assert answer.returncode == 74
    assert "Traceback" not in answer.stderr


WITH_A_FAULT = """
import sys
from mailtape import background, cli
from mailtape.roles import process

ready = process.tell_ready

async def fail():
    raise ZeroDivisionError

def ready_with_a_fault(*told):
    ready(*told)
    background.lasting(fail(), "a planted task")

process.tell_ready = ready_with_a_fault
sys.argv[0] = "mailtape"
cli.main()
"""
"""`mailtape`, in which a task ends that should last, once all is served."""


def test_a_server_that_a_fault_of_its_own_ended_ends_with_70(tmp_path: Path) -> None:
    anywhere = ["--smtp", "127.0.0.1:0", "--http", "127.0.0.1:0"]

    ended = subprocess.run(
        [sys.executable, "-c", WITH_A_FAULT, "serve", "--data", tmp_path / "var", *anywhere],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 70, ended.stderr
    assert "ready" in ended.stdout
    assert ended.stderr.splitlines()[-1].endswith("did not: a planted task.")
